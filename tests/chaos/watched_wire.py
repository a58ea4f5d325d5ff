"""The two ends of the handoff, watched: what the node's loop asks of them and what they tell it.

Each transfer is bound to its request by the reservation, which carries it. While a transfer reads or writes
pages they are in the ``PageGuard``.
"""

from __future__ import annotations

from typing import Any

from watch import PageGuard, Watch

import kv_transfer
from pagewire.engine.staging import HostPages
from pagewire.mailbox import NODE_TO_NODE


def watch_sender(watch: Watch, guard: PageGuard) -> None:
    import prefill_node.main as program

    class Sender(kv_transfer.Sender):
        def reserve(self, address: str, num_tokens: int, payload: bytes, *rest: Any) -> Any:
            transfer = super().reserve(address, num_tokens, payload, *rest)
            request = NODE_TO_NODE.decode(payload).request
            watch("reserve", transfer=transfer, request=request.request, attempt=request.attempt)
            return transfer

        def publish(self, transfer: Any, slots: Any, computed: int, *rest: Any) -> None:
            guard.use(transfer, slots)
            watch("publish", transfer=transfer, computed=computed)
            super().publish(transfer, slots, computed, *rest)

        def retract(self, transfer: Any) -> None:
            super().retract(transfer)
            guard.end(transfer)

        def commit(self, transfer: Any, *rest: Any) -> None:
            watch("commit", transfer=transfer)
            super().commit(transfer, *rest)

        def abort(self, transfer: Any, code: str, reason: str) -> None:
            watch("abort", transfer=transfer, code=code)
            super().abort(transfer, code, reason)
            guard.end(transfer)

        def poll(self, now: float) -> Any:
            events = super().poll(now)
            for event in events:
                kind = type(event).__name__.lower()
                watch(kind, transfer=event.transfer, code=getattr(event, "code", ""))
                if kind != "granted":
                    guard.end(event.transfer)
            return events

    setattr(program, "Sender", Sender)  # noqa: B010


def watch_receiver(watch: Watch, guard: PageGuard) -> None:
    import decode_node.main as program

    requests: dict[str, str] = {}  # by transfer
    begun: set[str] = set()
    write = HostPages.write

    def watched(self: Any, slots: Any, layers: slice, data: Any) -> None:
        begun.update(guard.write(slots))
        write(self, slots, layers, data)

    HostPages.write = watched  # type: ignore[method-assign]

    class Receiver(kv_transfer.Receiver):
        def grant(self, transfer: Any, have_tokens: int, slots: Any) -> bool:
            guard.use(transfer, slots)
            done = super().grant(transfer, have_tokens, slots)
            watch("grant", transfer=transfer, have=have_tokens)
            watch.hold("granted", requests[transfer])
            return done

        def adopt(self, transfer: Any) -> bool:
            watch.hold("landed", requests[transfer])
            guard.end(transfer)
            done = super().adopt(transfer)
            watch("adopt", transfer=transfer, done=done)
            return done

        def abort(self, transfer: Any, code: str, reason: str) -> None:
            watch("abort", transfer=transfer, code=code)
            super().abort(transfer, code, reason)
            guard.end(transfer)

        def poll(self, now: float) -> Any:
            events = super().poll(now)
            for event in events:
                self._note(type(event).__name__.lower(), event)
            for transfer in sorted(begun):
                watch.hold("streaming", requests[transfer])
            begun.clear()
            return events

        def _note(self, kind: str, event: Any) -> None:
            if kind == "reserved":
                request = NODE_TO_NODE.decode(event.payload).request
                watch.know(request)
                requests[event.transfer] = request.request
                watch(kind, transfer=event.transfer, request=request.request, attempt=request.attempt)
                return
            watch(kind, transfer=event.transfer, code=getattr(event, "code", ""))
            begun.discard(event.transfer)
            if kind == "dropped":
                guard.end(event.transfer)

    setattr(program, "Receiver", Receiver)  # noqa: B010
