"""A child of ``pagewire serve`` that writes down what passes its edges. For tests only.

    python watched_child.py FOLDER ROLE NAME

The same program as ``pagewire.cli.child``: its mailbox, its end of the handoff and its page pool are watched,
and each thing seen is a line in FOLDER/NAME.PID.trace: ``[monotonic seconds, kind, facts]``. While
FOLDER/armed exists, a node also does what the seeds of requests ask for (``marks``): it keeps tokens from the
router, or stands still at a point until FOLDER/go-REQUEST exists. Knows edges; changes nothing inside.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from watch import PageGuard, Watch

from pagewire.mailbox import NodeMailbox, RouterMailbox
from pagewire.messages import Cancel, Failed, PrefillRequest, TokenItem, Tokens

# --- edges --------------------------------------------------------------------------------------------------


def watch_router(watch: Watch) -> None:
    import router.main as program

    class Mailbox(RouterMailbox):
        def send(self, peer: Any, message: object) -> bool:
            match message:
                case PrefillRequest():
                    watch("open", node=peer.node, decode=message.decode.node, **_attempt(message))
                case Cancel(request, attempt, choice):
                    watch("cancel", node=peer.node, request=request, attempt=attempt, choice=choice)
            return super().send(peer, message)

    setattr(program, "RouterMailbox", Mailbox)  # noqa: B010


def watch_node(watch: Watch, role: str) -> None:
    from watched_wire import watch_receiver, watch_sender

    import pagewire.node as program

    guard = PageGuard(watch)
    roles = _watch_role(role)
    _watch_pool(guard)

    class Mailbox(NodeMailbox):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.seen: object = None
            self.cancelled: list[tuple[tuple[str, int], list[Any]]] = []
            super().__init__(*args, **kwargs)

        def drain(self) -> list[tuple[Any, Any]]:
            found = super().drain()
            for _, message in found:
                match message:
                    case PrefillRequest():
                        watch.know(message)
                        watch("take", **_attempt(message))
                    case Cancel(request, attempt, choice):
                        watch("cancelled", request=request, attempt=attempt, choice=choice)
                        if choice is None:
                            self.cancelled.append(
                                ((request, attempt), leases_of(roles[0], (request, attempt)))
                            )
            return found

        def send(self, router: Any, message: object) -> None:
            match message:
                case Tokens():
                    message = self._told(message)
                case Failed():
                    watch("failed", request=message.request, attempt=message.attempt, code=message.code)
            super().send(router, message)

        def _told(self, message: Tokens) -> Tokens:
            told = [item for item in message.items if not watch.keeps(item)]
            kept = [_place(item) for item in message.items if watch.keeps(item)]
            for item in told:
                if item.finish:
                    watch.hold("last", item.request)
            watch("tokens", items=[_place(item) for item in told], **({"kept": kept} if kept else {}))
            return replace(message, items=told) if kept else message

        def report(self, load: Any) -> None:
            for key, leases in self.cancelled:
                kept = [lease for lease in leases if lease in roles[0]._engine.pool._leases]
                watch("gone", request=key[0], attempt=key[1], leases=len(leases), kept=len(kept))
            self.cancelled.clear()
            known = ("jobs", "landing", "live", "pages_leased", "preemptions")
            gauges = {name: load.gauges[name] for name in known if name in load.gauges}
            seen = (load.waiting, load.running, load.transfers, gauges)
            if seen != self.seen:
                self.seen = seen
                checks = {"handed": guard.handed, "written": guard.written}
                state = {"waiting": load.waiting, "running": load.running, "transfers": load.transfers}
                watch("load", **state, **gauges, **checks)
            super().report(load)

    setattr(program, "NodeMailbox", Mailbox)  # noqa: B010
    if role == "prefill":
        watch_sender(watch, guard)
    else:
        watch_receiver(watch, guard)


def _watch_role(role: str) -> list[Any]:
    """The node's role will be in the list once it is made."""
    if role == "prefill":
        from prefill_node.role import PrefillRole as Role
    else:
        from decode_node.role import DecodeRole as Role  # type: ignore[assignment]
    roles: list[Any] = []
    made = Role.__init__

    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        roles.append(self)

    Role.__init__ = make  # type: ignore[method-assign]
    return roles


def leases_of(role: Any, key: tuple[str, int]) -> list[Any]:
    """The leases that a node holds for an attempt, wherever it has got to."""
    found = [seq.lease for seq in role._engine.sequences(*key)]
    if hasattr(role, "_jobs"):
        job = role._jobs.get(key)
        found += [job.lease] if job is not None else []
    else:
        found += [arrival.lease for arrival in role._landing if arrival.key == key]
    return [lease for lease in found if lease is not None]


def _watch_pool(guard: PageGuard) -> None:
    """Every page that is handed out is looked at."""
    from pagewire.engine.pages import PagePool

    made, hand_out = PagePool.__init__, PagePool._hand_out

    def make(self: Any, num_pages: int, page_size: int) -> None:
        made(self, num_pages, page_size)
        guard.page_size = page_size

    def watched(self: Any) -> int:
        page = hand_out(self)
        guard.hand_out(page)
        return page

    PagePool.__init__ = make  # type: ignore[method-assign]
    PagePool._hand_out = watched  # type: ignore[method-assign]


def _attempt(message: PrefillRequest) -> dict[str, Any]:
    return {
        "request": message.request,
        "attempt": message.attempt,
        "seed": message.seed,
        "choices": message.choices,
        "emitted": len(message.tokens) - message.num_prompt,
        "prompt": message.num_prompt,
    }


def _place(item: TokenItem) -> tuple[str, int, int, int]:
    return (item.request, item.attempt, item.choice, item.index)


def main() -> None:
    folder = Path(sys.argv.pop(1))
    role, name = sys.argv[1:3]
    watch = Watch(folder, name)
    if role == "router":
        watch_router(watch)
    else:
        watch_node(watch, role)
    sys.path.remove(str(Path(__file__).parent))  # product code finds what it finds when it runs by itself
    from pagewire.cli import child

    child.main()


if __name__ == "__main__":
    main()
