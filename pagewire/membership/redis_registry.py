"""A process's place in the directory: announced, refreshed, and told what else is there, on a thread.

Knows redis and records; what follows from them is the business of ``seen``. Nothing that redis does or does
not do reaches another thread: while it is away, everybody keeps what they have. All times are durations here
and lifetimes by redis's clock, so that hosts' clocks need not agree.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import redis

from pagewire.audit import Audit, clean
from pagewire.errors import RemoteProtocolError
from pagewire.membership.changes import Changes
from pagewire.membership.outage import Outage
from pagewire.membership.record import Record, RecordKey, read, sign
from pagewire.membership.store import Entry, Store, check, connected
from pagewire.membership.url import RegistryUrl

REFRESH_S = 5.0  # a third of what a record stands without it
_JITTER = 0.2  # of that, either way
_CALM_S = 0.05  # between two looks, however much changes
_LEAVING_S = 2.5  # that redis may take to let us go

log = logging.getLogger("pagewire.membership")


class RedisRegistry:
    """``mine`` is announced until ``leave``; its generation is filled in. ``seen`` gets all records of the
    kinds ``watch`` whenever they were listed, on the thread of this. Raises ConfigError if ``url`` is
    none.
    """

    def __init__(
        self,
        url: RegistryUrl,
        key: RecordKey,
        mine: Record,
        watch: tuple[str, ...],
        seen: Callable[[list[Record]], None] = lambda records: None,
    ) -> None:
        check(url)
        self.up = False
        self.refused = 0  # records that this cluster did not sign, each as often as it was written
        self.counts: Counter[str] = Counter()  # records by kind, when they were last listed
        self._url, self._key, self._mine, self._watch, self._seen = url, key, mine, watch, seen
        self._signed = b""  # once redis's clock has been asked
        self._fenced = False  # a newer process has our name
        self._wrong: set[tuple[str, Entry]] = set()
        self._audit = Audit(log)
        self._outage = Outage(url.shown)
        self._stopping = threading.Event()
        self._ear, self._bell = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Be in the directory no longer. Waits for redis a moment; without it, the record ends by itself."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._bell.send(b"\0")
        self._thread.join(_LEAVING_S)
        if not self._thread.is_alive():
            self._ear.close()
            self._bell.close()

    # --- on its own thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._attend()
            except (redis.RedisError, OSError) as error:
                self.up = False
                why = clean(self._url.without_secrets(str(error) or type(error).__name__), 200)
                if (line := self._outage.fell(time.monotonic(), why)) is not None:
                    log.warning("%s", line)
                self._stopping.wait(self._outage.wait_s(random.random()))
        self.up = False

    def _attend(self) -> None:
        """Until something fails or we leave."""
        with connected(self._url) as client:
            store = Store(client, self._mine.cluster)
            with contextlib.closing(
                Changes(client, [store.channel(kind) for kind in self._watch])
            ) as changes:
                while not self._stopping.is_set():
                    changes.ask()
                    until = time.monotonic() + REFRESH_S * random.uniform(1 - _JITTER, 1 + _JITTER)
                    self._look(store)
                    self._works()
                    while changes.wait(self._ear, until - time.monotonic()):
                        self._look(store)
                        self._stopping.wait(_CALM_S)
            if self._signed and not self._fenced:
                store.leave(self._mine.kind, self._mine.name, self._signed)

    def _works(self) -> None:
        self.up = True
        if (line := self._outage.back(time.monotonic())) is not None:
            log.info("%s", line)

    def _look(self, store: Store) -> None:
        """Refresh our record, and see which others there are."""
        if not self._fenced:
            self._announce(store)
        entries = [(kind, entry) for kind in self._watch for entry in store.list(kind)]
        records = [record for kind, entry in entries if (record := self._checked(kind, entry)) is not None]
        self._wrong.intersection_update((kind, entry._replace(ttl_s=0)) for kind, entry in entries)
        self.counts = Counter(record.kind for record in records)
        self._seen(records)

    def _announce(self, store: Store) -> None:
        kind, name = self._mine.kind, self._mine.name
        present = store.get(kind, name)
        other = self._other(present)
        if not self._signed:
            now = store.now_us() if other is None else max(store.now_us(), other.generation + 1)
            self._mine = replace(self._mine, generation=now)
            self._signed = sign(self._mine, self._key)
        elif other is not None and other.age > self._mine.age:
            self._fenced = True
            log.error("a newer process has announced itself as %s %s: this one no longer does", kind, name)
            return
        store.put(kind, name, self._signed, tell=present != self._signed)

    def _other(self, present: bytes) -> Record | None:
        """The record of another life of our name, if ``present`` is one."""
        with contextlib.suppress(RemoteProtocolError):
            found = read(present, self._key)
            if self._is_at(found, self._mine.kind, self._mine.name) and found.epoch != self._mine.epoch:
                return found
        return None

    def _is_at(self, record: Record, kind: str, name: str) -> bool:
        """Whether this is where ``record`` belongs: a signed one may have been copied elsewhere."""
        return (record.cluster, record.kind, record.name) == (self._mine.cluster, kind, name)

    def _checked(self, kind: str, entry: Entry) -> Record | None:
        """What ``entry`` says, if this cluster signed it and it stands where it belongs."""
        try:
            record = read(entry.signed, self._key)
            if not self._is_at(record, kind, entry.name):
                raise RemoteProtocolError("it was signed for another key")
            return record
        except RemoteProtocolError as error:
            known = (kind, entry._replace(ttl_s=0))
            if known not in self._wrong:
                self._wrong.add(known)
                self.refused += 1
                self._audit.note(time.monotonic(), f"refused the record of {kind} {entry.name}: {error}")
            return None
