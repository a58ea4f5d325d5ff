"""The directory's keys in redis, and the few commands that touch them.

    pagewire:{CLUSTER}:KIND:NAME      a signed record; redis forgets it TTL_S after the last refresh
    pagewire:{CLUSTER}:names:KIND     the names of that kind: a set, from which whoever lists removes the dead
    pagewire:{CLUSTER}:changes:KIND   a channel: something of that kind came or went

Replies are bounded, whatever somebody may have written there. Everything raises redis.RedisError or OSError
when redis is away; a connection on which something failed is not used again, so that no late reply is taken
for another's. Knows redis and bytes; knows no signature and no thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

from pagewire.errors import ConfigError
from pagewire.membership.record import MAX_BYTES
from pagewire.membership.url import RegistryUrl

TTL_S = 15.0
ANSWER_S = 1.0  # that redis may take to connect and to answer
_parse_url: Any = parse_url  # redis-py has types for a part of itself
_Sentinel: Any = Sentinel
MOST = 4096  # records of one kind that are listed

_LIST = """
local found = {}
for _, name in ipairs(redis.call('SRANDMEMBER', KEYS[1], ARGV[1])) do
  local key = ARGV[2] .. name
  local size = redis.pcall('STRLEN', key)
  if size == 0 then
    redis.call('SREM', KEYS[1], name)
  elseif #name <= 128 then
    local fits = type(size) == 'number' and size <= tonumber(ARGV[3])
    found[#found + 1] = {name, fits and redis.call('GET', key) or '', redis.call('PTTL', key)}
  end
end
return found
"""
_LEAVE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[2])
return 1
"""


class Entry(NamedTuple):
    """``signed`` is empty where a key holds no string, or too long a one."""

    name: str
    signed: bytes
    ttl_s: float


@contextlib.contextmanager
def connected(url: RegistryUrl) -> Iterator[Any]:
    """A client of its own for ``url``, which connects at its first command. Nothing of it is left behind.
    Raises ConfigError for options behind a "?" that redis-py does not know.
    """
    ours: dict[str, Any] = {
        "socket_timeout": ANSWER_S,
        "socket_connect_timeout": ANSWER_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": False,
    }
    try:
        options: dict[str, Any] = _parse_url(url.plain)
    except ValueError as error:
        raise _unknown() from error
    if not url.hosts:
        del ours["socket_connect_timeout"]  # connecting within a host is immediate
    with contextlib.ExitStack() as stack:
        if url.master:
            sentinel = _sentinel(url, options, ours)
            for each in sentinel.sentinels:
                stack.callback(each.connection_pool.disconnect)
            tls = options.pop("connection_class", None) is not None
            client = sentinel.master_for(url.master, **(options | ours), ssl=tls)
        else:
            client = redis.Redis(connection_pool=ConnectionPool(**(options | ours)))
        stack.callback(client.connection_pool.disconnect)
        pool = client.connection_pool
        try:
            pool.connection_class(**pool.connection_kwargs)
        except (TypeError, ValueError) as error:
            raise _unknown() from error
        yield client


def check(url: RegistryUrl) -> None:
    """Raises ConfigError if ``url`` could never be connected to. Connects to nothing."""
    with connected(url):
        pass


def _unknown() -> ConfigError:
    return ConfigError("--registry: redis's client does not know an option behind the question mark")


def _sentinel(url: RegistryUrl, options: dict[str, Any], ours: dict[str, Any]) -> Any:
    """Takes out of ``options`` what is not redis's."""
    options.pop("host"), options.pop("port")
    theirs = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in list(options)
        if name.startswith("sentinel_")
    }
    theirs |= {name: value for name, value in options.items() if name.startswith("ssl_")}
    tls = "connection_class" in options
    return _Sentinel([tuple(host) for host in url.hosts], sentinel_kwargs=theirs | ours | {"ssl": tls})


class Store:
    """One cluster's part of redis, over ``client``."""

    def __init__(self, client: Any, cluster: str) -> None:
        self._client = client
        self._prefix = f"pagewire:{{{cluster}}}:"

    def now_us(self) -> int:
        seconds, micros = self._client.time()
        return int(seconds) * 1_000_000 + int(micros)

    def get(self, kind: str, name: str) -> bytes:
        """What stands there, cut off where it is too long to be a record; b"" for nothing."""
        try:
            return bytes(self._client.getrange(self._key(kind, name), 0, MAX_BYTES))
        except redis.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return b""
            raise

    def put(self, kind: str, name: str, signed: bytes, *, tell: bool) -> None:
        """Write it, for as long as a record stands without a refresh. ``tell``: it is news."""
        with self._client.pipeline() as pipe:
            pipe.set(self._key(kind, name), signed, px=round(TTL_S * 1000))
            pipe.sadd(self._names(kind), name)
            if tell:
                pipe.publish(self.channel(kind), name)
            pipe.execute()

    def leave(self, kind: str, name: str, signed: bytes) -> None:
        """Take it away, unless somebody else's stands there by now."""
        keys = self._key(kind, name), self._names(kind)
        self._client.eval(_LEAVE, len(keys), *keys, signed, name, self.channel(kind))

    def list(self, kind: str) -> list[Entry]:
        prefix = self._key(kind, "")
        found = self._client.eval(_LIST, 1, self._names(kind), MOST, prefix, MAX_BYTES)
        return [
            Entry(name.decode("ascii", "backslashreplace"), signed, ttl / 1000) for name, signed, ttl in found
        ]

    def channel(self, kind: str) -> str:
        return f"{self._prefix}changes:{kind}"

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"

    def _names(self, kind: str) -> str:
        return f"{self._prefix}names:{kind}"
