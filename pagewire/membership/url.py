"""The address of the directory, as ``--registry`` gives it: taken apart and checked, its password kept quiet.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]                       as redis-py takes it; rediss:// is TLS
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT],.../MASTER[/DB]   the master that these Sentinels know
    unix://[USER:PASSWORD@]/PATH[?db=DB]

USER and PASSWORD are those of redis; Sentinels that want some take them as ?sentinel_username= and
?sentinel_password=. Knows text; opens nothing and loads no redis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from pagewire.errors import ConfigError

_SENTINEL = "+sentinel"
_PORTS = {"": 6379, _SENTINEL: 26379}
_FORMS = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB or redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB"


class Host(NamedTuple):
    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class RegistryUrl:
    """``plain`` is what redis-py takes for redis itself; with Sentinels, its host is one of those."""

    shown: str  # for people: no user, no password, no query
    hosts: tuple[Host, ...]  # redis, or its Sentinels; none for a socket in the file system
    master: str  # the name by which the Sentinels know it; "" without
    plain: str = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def addresses(self) -> tuple[str, ...]:
        """As ``secret.secret_for`` takes them: what leads to redis decides which secret is needed."""
        return tuple(f"tcp://{host}" for host in self.hosts) or ("tcp://localhost:0",)

    def without_secrets(self, text: str) -> str:
        """``text``, which redis or its client wrote, and which might quote what it was sent."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def parse(url: str) -> RegistryUrl:
    """Raises ConfigError, which does not quote ``url``."""
    try:
        parts = urlsplit(url)
        made = _unix(parts) if parts.scheme == "unix" else _hosts(parts)
    except ValueError:  # a port that is no number, a bracket too few, a DB that is none
        made = None
    if made is None:
        raise ConfigError(f"--registry: write it as {_FORMS}")
    return made


def addresses_of(url: str | None) -> tuple[str, ...]:
    """What leads to the directory ``url``; nothing does to none."""
    return () if url is None else parse(url).addresses


def with_password(url: str, password: str) -> str:
    """``url`` with ``password`` in it. Raises ConfigError if it has one."""
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    if ":" in user:
        raise ConfigError("--registry has a password already: leave out --registry-password-file")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{hosts}").geturl()


def has_password(url: str) -> bool:
    user, _, _ = urlsplit(url).netloc.rpartition("@")
    return ":" in user or "password=" in urlsplit(url).query


def _unix(parts: SplitResult) -> RegistryUrl | None:
    if not parts.path:
        return None
    shown = f"unix://{parts.path}"
    plain = f"unix://{parts.netloc}{parts.path}" + (f"?{parts.query}" if parts.query else "")
    return RegistryUrl(shown, (), "", plain, _secrets(parts))


def _hosts(parts: SplitResult) -> RegistryUrl | None:
    scheme, plus, kind = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss") or plus + kind not in _PORTS:
        return None
    user, at, names = parts.netloc.rpartition("@")
    hosts = tuple(_host(name, _PORTS[plus + kind]) for name in names.split(","))
    master, database = _path(parts.path, bool(kind))
    if not all(hosts) or (kind and not master) or (not kind and len(hosts) > 1):
        return None
    found = tuple(host for host in hosts if host is not None)
    where = "/".join(word for word in (master, str(database)) if word)
    plain = f"{scheme}://{user}{at}{found[0]}/{database}" + (f"?{parts.query}" if parts.query else "")
    shown = f"{parts.scheme}://{','.join(map(str, found))}/{where}"
    return RegistryUrl(shown, found, master, plain, _secrets(parts))


def _host(text: str, port: int) -> Host | None:
    parts = urlsplit(f"//{text}")
    (parts.hostname or "").encode("idna")  # as it will be looked up
    return Host(parts.hostname, parts.port or port) if parts.hostname else None


def _path(path: str, has_master: bool) -> tuple[str, int]:
    """Master and database. Raises ValueError."""
    words = path.strip("/").split("/") if path.strip("/") else []
    master = unquote(words.pop(0)) if has_master and words else ""
    if len(words) > 1:
        raise ValueError("more than a database")
    database = int(words[0]) if words else 0
    if database < 0:
        raise ValueError("databases count from 0")
    return master, database


def _secrets(parts: SplitResult) -> tuple[str, ...]:
    """All passwords, as they are and as they are written, the longest first."""
    user, _, _ = parts.netloc.rpartition("@")
    written = [user.partition(":")[2]]
    known = [v for name, vs in parse_qs(parts.query).items() if name.endswith("password") for v in vs]
    found = {word for text in written + known for word in (text, unquote(text), quote(text, safe="")) if word}
    return tuple(sorted(found, key=len, reverse=True))
