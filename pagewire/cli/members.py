"""``pagewire members``: what the directory in redis holds. Knows flags and tables; changes nothing there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pagewire.audit import clean
from pagewire.cli.directory_flags import DirectoryFlags, SecretFile
from pagewire.cli.groups import grouped
from pagewire.errors import ConfigError, RemoteProtocolError
from pagewire.membership.record import KINDS, Record, RecordKey, key_of, read
from pagewire.membership.url import RegistryUrl, parse

if TYPE_CHECKING:
    from pagewire.membership.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One key of the directory. ``refused`` says why no member of the cluster believes it, "" if they do."""

    kind: str
    name: str
    address: str = ""
    version: str = ""
    model: str = ""
    epoch: str = ""
    ttl_s: float = 0.0
    refused: str = ""


@grouped
def members(
    directory: DirectoryFlags,
    secret_file: SecretFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: a JSON list.")] = False,
) -> None:
    """Show who is in the directory: routers and nodes, where, and for how long without a refresh.

    [bold]Example[/bold]:

        pagewire members --registry redis://10.0.0.9:6379/0 --cluster-secret-file secret

    Who lives is another question, which each router answers for its nodes at /health.
    """
    registry = directory.found()
    if registry is None:
        raise ConfigError("--registry: say which redis")
    rows = _listed(parse(registry), directory.cluster, secret_file)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        Console().print(_table(rows) if rows else f"nobody is in {directory.cluster}")


def _listed(url: RegistryUrl, cluster: str, secret_file: str | None) -> list[Row]:
    import redis

    from pagewire.membership.store import Store, connected
    from pagewire.secret import secret_for

    secret = secret_for(secret_file, *url.addresses)
    assert secret is not None
    try:
        with connected(url) as client:
            return list(_rows(Store(client, cluster), cluster, key_of(secret)))
    except (redis.RedisError, OSError) as error:
        why = url.without_secrets(str(error) or type(error).__name__)
        raise ConfigError(f"{url.shown} does not answer: {clean(why)}") from None


def _rows(store: Store, cluster: str, key: RecordKey) -> Iterator[Row]:
    for kind in KINDS:
        for entry in sorted(store.list(kind)):
            try:
                record = read(entry.signed, key)
            except RemoteProtocolError as error:
                yield Row(kind=kind, name=clean(entry.name), ttl_s=entry.ttl_s, refused=str(error))
            else:
                yield _row(kind, entry.name, entry.ttl_s, record, cluster)


def _row(kind: str, name: str, ttl_s: float, record: Record, cluster: str) -> Row:
    here = (record.cluster, record.kind, record.name) == (cluster, kind, name)
    return Row(
        kind=kind,
        name=clean(name),
        address=record.address,
        version=record.version,
        model=record.model,
        epoch=record.epoch,
        ttl_s=ttl_s,
        refused="" if here else "it was signed for another key",
    )


def _table(rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("kind", "name", "address", "version", "model", "ttl", ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        words = (row.kind, row.name, row.address or "-", row.version, row.model, f"{row.ttl_s:.0f} s")
        table.add_row(*map(Text, words), Text(row.refused and f"refused: {row.refused}", style="red"))
    return table
