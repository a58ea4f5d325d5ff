"""Which routers a node dials: those that the directory lists, and others as long as their line is up.

Pure: what redis listed and which lines are up go in, addresses come out. Knows records; knows no redis,
socket or clock. A directory that says nothing changes nothing; one that forgets a router ends no line to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from pagewire.membership.record import Record
from pagewire.messages import ROUTER

MOST = 64  # routers that a node dials; each is a connection and two heartbeats a second


@dataclass(slots=True)
class Directory:
    """The routers of one node. ``fits`` says whether a router of that version may be dialled."""

    most: int = MOST
    fits: Callable[[str], bool] = lambda version: True
    left_out: int = 0  # routers beyond ``most``
    unfit: frozenset[Record] = frozenset()  # those that were listed last and may not be dialled
    _held: dict[str, Record] = field(default_factory=dict)

    def listed(self, records: Iterable[Record], up: Collection[str]) -> tuple[str, ...]:
        """Redis holds ``records`` now, and there are lines to the addresses ``up``. The addresses to dial.

        There is one address for a name, and one name for an address: two lines to one process would fight
        over the node's identity there, and a name's former life must not be heard beside its present one.
        """
        found = [record for record in records if record.kind == ROUTER]
        routers = [record for record in found if self.fits(record.version)]
        self.unfit = frozenset(found).difference(routers)
        standing = [record for record in self._held.values() if record.address in up]
        names, addresses = dict[str, Record](), dict[str, Record]()
        for record in sorted([*routers, *standing], key=lambda record: record.age):
            for known in (names.pop(record.name, None), addresses.pop(record.address, None)):
                if known is not None:
                    names.pop(known.name, None)
                    addresses.pop(known.address, None)
            names[record.name] = addresses[record.address] = record
        first = sorted(names, key=lambda name: (name not in self._held, name))
        self.left_out = max(0, len(first) - self.most)
        self._held = {name: names[name] for name in first[: self.most]}
        return self.addresses

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(record.address for record in self._held.values())
