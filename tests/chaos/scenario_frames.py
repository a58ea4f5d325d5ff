"""F15, F18 and F20 at the handoff: mutated frames, replayed and forged ones, stale references.

Real traffic is captured at real ends, made wrong (``mutate``) and sent to a real receiver and a real sender
in processes of their own (``victim``), over tcp and shm, from the connection that owns the transfer and from
others, while a healthy peer goes on. Pass: every wrong frame is counted as such, no page changes, all healthy
transfers land with the right bytes, and memory grows by less than 64 MiB.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import here  # noqa: F401
import mutate
import numpy as np
from hostile import GROWTH_MIB, Frame, Link, TapDialer, TapListener, dialer, refused, secret_file, until
from report import Plan, Row, Scenario
from victim import LAYOUTS, SEED, SLOTS, SMALL, Store, Victim, content, limits

from kv_transfer import Done, Granted, Landed, Lost, Receiver, Refused, Reserved, Sender, Timeouts, wire
from kv_transfer.transports.choose import open_receiver
from kv_transfer.wire import TransferId, checksum, digest
from pagewire.layout import KVLayout

TOKENS = 64
COPIES = 60  # wrong frames before each right one
TCP = "tcp://127.0.0.1:*"
SHM = "shm://*"


class Owner:
    """A real sender, in this process, whose every frame is recorded, and may be preceded by wrong ones."""

    def __init__(self, victim: Victim, secret: bytes, layout: KVLayout) -> None:
        self.frames: list[Frame] = []
        self.spoil: Callable[[bytes, bytes], list[list[bytes]]] = lambda head, body: []
        self.tap = TapDialer(dialer(victim.address, secret), self._hook)
        self.store = Store(SLOTS, layout, SEED)
        self.sender = Sender(self.tap, self.store, layout, "owner", Timeouts(retry_s=5.0))
        self.address = victim.address
        self.ended: dict[str, int] = {"Done": 0, "Lost": 0, "Refused": 0}

    def _hook(self, head: bytes, body: bytes) -> list[list[bytes]]:
        self.frames.append((head, body))
        return self.spoil(head, body)

    def transfer(self, seconds: float = 60.0) -> TransferId:
        """One transfer from beginning to end."""
        current = self.sender.reserve(self.address, TOKENS, b"who", seconds, time.monotonic())
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = time.monotonic()
            for event in self.sender.poll(now):
                if isinstance(event, Granted):
                    self.sender.publish(current, np.arange(TOKENS), TOKENS)
                    self.sender.commit(current, b"first", now)
                if isinstance(event, Done | Lost | Refused):
                    self.ended[type(event).__name__] += 1
                    return current
            time.sleep(0.0005)
        raise TimeoutError("the owner's transfer")


def attack_receiver(plan: Plan, row: Row, address: str, layout_name: str, frames: int) -> None:
    """``frames`` wrong frames at a receiver: two thirds from the transfers' own connection."""
    layout, rng = LAYOUTS[layout_name], random.Random(f"{plan.seed}/{address}")
    with (
        secret_file() as file,
        Victim("receiver", address, file, layout_name) as victim,
        Victim("sender", "", file, layout_name) as good,
    ):
        secret = file.read_bytes()
        good.ask(start=[victim.address, TOKENS, 1_000_000])
        owner, sent = Owner(victim, secret, layout), 0
        owner.transfer()  # untouched: whoever attacks has seen right frames
        began = time.monotonic()
        owner.spoil = lambda head, body: [mutate.frame(rng, head, body) for _ in range(COPIES)]
        while (sent := owner.tap.extra) < frames * 2 // 3:
            owner.transfer()
            victim.look()
        with Link(victim, secret) as stranger:
            while stranger.sent < frames - sent:
                stranger.send(*mutate.frame(rng, *rng.choice(owner.frames)))
                if stranger.sent % 1000 == 0:
                    victim.look()
            sent += stranger.sent
            _settle(row, victim, good, sent)
        row.took(time.monotonic() - began)
        _conclude(row, victim, good, content(owner.store, TOKENS), f"{address[:3]} receiver", sent)
        if owner.ended["Lost"] or owner.ended["Refused"]:
            row.problems.append(f"the owner's transfers ended as {owner.ended}")
        owner.sender.close()


def _settle(row: Row, victim: Victim, good: Victim, sent: int) -> None:
    """Until every wrong frame was counted, and the healthy peer has done its last transfer."""
    until(lambda: refused(victim.ask()) >= sent, 60, f"{sent} frames counted as wrong")
    good.ask(start=["", 0, 0])
    until(lambda: not good.ask()["open"], 30, "the healthy peer's last transfer")
    row.verified += 1


def _conclude(row: Row, victim: Victim, good: Victim, expected: str, what: str, sent: int) -> None:
    report, healthy = victim.ask(), good.ask()
    counted = refused(report)
    row.runs += 1
    row.units += sent
    row.named += min(counted, sent)
    row.leaked += report["open"] + abs(report["unaccounted"])
    wrong = sum(found != expected for found in report["landed"].values())
    if counted != sent:
        row.problems.append(f"{what}: {counted} counted as wrong, {sent} sent")
    if report["changed"] or wrong:
        row.problems.append(f"{what}: {report['changed']} pages changed, {wrong} transfers landed wrong")
    if healthy["ended"]["lost"] or healthy["ended"]["refused"] or not healthy["ended"]["done"]:
        row.problems.append(f"{what}: the healthy peer's transfers ended as {healthy['ended']}")
    if not victim.alive or victim.grown > GROWTH_MIB:
        row.problems.append(f"{what}: alive {victim.alive}, {victim.grown:.0f} MiB more memory")
    kinds = {name: count for name, count in report["counts"].items() if count and name in _SHOWN}
    row.notes.append(
        f"{what}: {sent:,} wrong frames, counted {kinds}; beside them {healthy['ended']['done']} healthy "
        f"transfers; +{victim.grown:.1f} MiB"
    )


_SHOWN = (
    "malformed",
    "version",
    "forged",
    "unknown",
    "late",
    "stray",
    "duplicate",
    "out_of_range",
    "corrupt",
)


def attack_sender(plan: Plan, row: Row, address: str, layout_name: str, frames: int) -> None:
    """Wrong frames at a sender, from the receiver that it speaks to."""
    layout, rng = LAYOUTS[layout_name], random.Random(f"{plan.seed}/{address}/sender")
    with secret_file() as file, Victim("sender", "", file, layout_name) as victim:
        wires: Any = open_receiver(address, file.read_bytes())
        tap = TapListener(wires, lambda h, b: [mutate.frame(rng, h, b) for _ in range(COPIES)])
        store = Store(SLOTS, layout)
        rogue = Receiver(tap, store, layout, "rogue", limits(layout))
        expected = content(Store(SLOTS, layout, SEED), TOKENS)
        victim.ask(start=[rogue.address, TOKENS, 1_000_000])
        began, landed, wrong = time.monotonic(), 0, 0
        while tap.extra < frames:
            for event in rogue.poll(time.monotonic()):
                match event:
                    case Reserved(transfer):
                        rogue.grant(transfer, 0, np.arange(TOKENS))
                    case Landed(transfer):
                        landed, wrong = landed + 1, wrong + (content(store, TOKENS) != expected)
                        rogue.adopt(transfer)
            victim.look()
        tap.hook = lambda head, body: []
        victim.ask(start=["", 0, 0])
        sent = tap.extra

        def counted() -> int:
            rogue.poll(time.monotonic())
            return refused(victim.ask())

        until(lambda: counted() >= sent, 30, f"{sent} frames counted as wrong by the sender")
        report = victim.ask()
        row.took(time.monotonic() - began)
        row.runs += 1
        row.verified += 1
        row.units += sent
        row.named += min(refused(report), sent)
        if refused(report) != sent or wrong or report["ended"]["lost"] or not report["ended"]["done"]:
            row.problems.append(f"{address[:3]} sender: {refused(report)} of {sent} counted, {report}")
        if victim.grown > GROWTH_MIB:
            row.problems.append(f"{address[:3]} sender: {victim.grown:.0f} MiB more memory")
        row.notes.append(
            f"{address[:3]} sender: {sent:,} wrong frames; {landed} transfers landed right; "
            f"+{victim.grown:.1f} MiB"
        )
        rogue.close()


def f15(plan: Plan) -> Row:
    row = Row("F15", "mutated frames at both ends of the handoff", unit="frames")
    attack_receiver(plan, row, TCP, "small", plan.count(36_000, 600))
    plan.step("tcp receiver")
    attack_receiver(plan, row, SHM, "small", plan.count(12_000, 600))
    plan.step("shm receiver")
    attack_receiver(plan, row, SHM, "large", plan.count(6_000, 600))
    plan.step("shm ring")
    attack_sender(plan, row, TCP, "small", plan.count(12_000, 600))
    attack_sender(plan, row, SHM, "small", plan.count(4_000, 600))
    return row


# --- F18: replay and forgery --------------------------------------------------------------------------------


def f18(plan: Plan) -> Row:
    row = Row("F18", "every captured frame replayed ten times, and forged ones", unit="frames")
    for address in (TCP, SHM):
        _replay(row, plan, address)
    return row


def _replay(row: Row, plan: Plan, address: str) -> None:
    what = address[:3]
    with secret_file() as file, Victim("receiver", address, file) as victim:
        secret = file.read_bytes()
        owner = Owner(victim, secret, SMALL)
        for _ in range(plan.count(20, 3)):
            owner.transfer()
        frames = list(owner.frames)
        before = victim.ask()
        with Link(victim, secret) as stranger:
            _again(row, victim, f"{what} after commit, other connection", stranger.send, frames)
        _again(row, victim, f"{what} after commit, own connection", _own(owner), frames)
        same(row, before, victim.ask(), f"{what} after commit")
        _while_open(row, owner, victim, what)
        _after_cancel(row, victim, secret, what)
        _forge(row, victim, secret, what)
        report = victim.ask()
        expected = content(owner.store, TOKENS)
        if any(found != expected for found in report["landed"].values()) or report["changed"]:
            row.problems.append(f"{what}: a page changed or landed wrong")
        row.leaked += report["open"] + abs(report["unaccounted"])
        row.notes.append(f"{what}: {_kinds(report)}; +{victim.grown:.1f} MiB")
        if victim.grown > GROWTH_MIB:
            row.problems.append(f"{what}: {victim.grown:.0f} MiB more memory")
        owner.sender.close()


def _kinds(report: dict[str, Any]) -> str:
    return ", ".join(f"{name} {report['counts'][name]:,}" for name in _SHOWN if report["counts"][name])


def _own(owner: Owner) -> Callable[..., None]:
    """Send by the connection that the owner's transfers came by."""
    from kv_transfer.transports.base import Peer

    peer = Peer(owner.address.replace("shm://", "ipc://").encode())

    def send(*parts: bytes) -> None:
        until(lambda: owner.tap._dealers.send(peer, parts), 10, "the owner's connection takes a frame")
        owner.sender.poll(time.monotonic())

    return send


def _again(
    row: Row, victim: Victim, what: str, send: Callable[..., None], frames: list[Frame], times: int = 10
) -> None:
    """Every frame ``times`` times; each must be counted, and none may change a page."""
    before = victim.ask()
    for head, body in frames:
        for _ in range(times):
            send(*([head, body] if body else [head]))
    _expect(row, victim, before, what, len(frames) * times)


def _expect(row: Row, victim: Victim, before: dict[str, Any], what: str, count: int) -> None:
    """``count`` frames more are counted as wrong than ``before``, and the pages are the same."""
    until(lambda: refused(victim.ask()) - refused(before) >= count, 30, f"{what}: {count} counted")
    after = victim.ask()
    row.runs += 1
    row.verified += 1
    row.units += count
    row.named += min(count, refused(after) - refused(before))
    if refused(after) - refused(before) != count:
        row.problems.append(f"{what}: {refused(after) - refused(before)} counted, {count} sent")
    same(row, before, after, what)


def same(row: Row, before: dict[str, Any], after: dict[str, Any], what: str) -> None:
    if before["pages"] != after["pages"]:
        row.problems.append(f"{what}: pages changed")


def _while_open(row: Row, owner: Owner, victim: Victim, what: str) -> None:
    """DATA and COMMIT ten times over while the transfer goes on: it lands as if they had not been."""
    owner.spoil = lambda head, body: [
        [head, body] if body else [head]
        for head, body in owner.frames[:-1]
        if wire.decode_preamble(head).cls is wire.Data
        for _ in range(10)
    ]
    owner.frames.clear()
    before = victim.ask()
    extra = owner.tap.extra
    owner.transfer()
    owner.spoil = lambda head, body: []
    sent = owner.tap.extra - extra
    until(lambda: refused(victim.ask()) - refused(before) >= sent, 10, f"{what} while open: {sent} counted")
    row.runs += 1
    row.verified += 1
    row.units += sent
    row.named += min(sent, refused(victim.ask()) - refused(before))


def _reserve(link: Link, tokens: int = TOKENS, **changes: Any) -> TransferId:
    transfer = TransferId(f"{next(_NUMBERS):032x}")
    message = wire.Reserve(transfer, "e", tokens, SMALL, 20_000, checksum(b"who"))
    link.say(replace(message, **changes), b"who")
    return transfer


def _data(transfer: TransferId, seq: int, start: int, tokens: int, body: bytes, **changes: Any) -> wire.Data:
    return replace(
        wire.Data(transfer, "e", seq, start, start + tokens, 0, SMALL.layers, checksum(body)), **changes
    )


_NUMBERS = itertools.count(1)
BODY = bytes(range(256)) * 16  # 16 tokens of the small layout


def _after_cancel(row: Row, victim: Victim, secret: bytes, what: str) -> None:
    with Link(victim, secret) as link:
        transfer = _reserve(link)
        link.until(wire.Grant)
        link.say(wire.Abort(transfer, "e", "cancelled", "by the test"))
        until(lambda: transfer in victim.ask()["dropped"], 5, "the cancel")
        data = _data(transfer, 0, 0, 16, BODY)
        commit = wire.Commit(transfer, "e", 1, len(BODY), digest([data.checksum]), checksum(b"f"))
        frames = [(wire.encode(data, BODY), BODY), (wire.encode(commit, b"f"), b"f")]
        _again(row, victim, f"{what} after cancel", link.send, frames)


def _forge(row: Row, victim: Victim, secret: bytes, what: str) -> None:
    """Frames with right checksums that have no place: other epoch, range, layer, size, request, model."""
    with Link(victim, secret) as link, Link(victim, secret) as other:
        transfer = _reserve(link)
        link.until(wire.Grant)
        good = _data(transfer, 0, 0, 16, BODY)
        wrong = [
            replace(good, epoch="an old life"),
            replace(good, token_start=TOKENS, token_stop=TOKENS + 16),
            replace(good, token_start=TOKENS - 8, token_stop=TOKENS + 8),
            replace(good, token_stop=wire.MAX_TOKENS),
            replace(good, layer_start=1, layer_stop=3),
            replace(good, layer_start=60_000, layer_stop=65_000),
            replace(good, token_stop=15),
            replace(good, transfer=TransferId("f" * 32)),
        ]
        frames = [(wire.encode(m, BODY), BODY) for m in wrong]
        _again(row, victim, f"{what} forged in the own connection", link.send, frames)
        _again(row, victim, f"{what} forged by another", other.send, [(wire.encode(good, BODY), BODY)])
        before = victim.ask()
        other.say(
            wire.Reserve(TransferId("a" * 32), "e", 4, replace(SMALL, model="other"), 9000, checksum(b""))
        )
        answer = other.until(wire.Refuse)
        if answer.code != "layout_mismatch" or "model" not in answer.reason:
            row.problems.append(f"{what}: another model was answered with {answer}")
        same(row, before, victim.ask(), f"{what} another model")
        _other_request(row, victim, link, transfer, what)


def _other_request(row: Row, victim: Victim, link: Link, transfer: TransferId, what: str) -> None:
    """A frame of one request with another one's name: it has a place, so that only the digest tells."""
    for seq in range(4):
        body = BODY if seq else bytes(len(BODY))
        link.say(_data(transfer, seq, seq * 16, 16, body), body)
    checks = [checksum(BODY)] * 4
    link.say(wire.Commit(transfer, "e", 4, 4 * len(BODY), digest(checks), checksum(b"f")), b"f")
    until(
        lambda: victim.ask()["dropped"].get(transfer) == "mismatch", 5, f"{what}: a frame of another request"
    )
    row.runs, row.verified, row.units, row.named = (
        row.runs + 1,
        row.verified + 1,
        row.units + 1,
        row.named + 1,
    )


# --- F20: stale references ----------------------------------------------------------------------------------


def f20(plan: Plan) -> Row:
    row = Row("F20", "stale references: unknown, out of range, consumed, reused, expired", unit="references")
    with (
        secret_file() as file,
        Victim("receiver", TCP, file) as victim,
        Link(victim, file.read_bytes()) as link,
    ):
        for _ in range(plan.repeats):
            for case in (_unknown, _out_of_range, _consumed, _reused, _expired):
                case(row, victim, link)
        report = victim.ask()
        row.leaked += report["open"] + abs(report["unaccounted"])
        if report["changed"]:
            row.problems.append("pages changed")
        row.notes.append(_kinds(report))
    return row


def _stale(row: Row, victim: Victim, link: Link, message: wire.Data, count: str) -> None:
    """``message`` refers to nothing that is there: counted as ``count``, and no page changes."""
    before = victim.ask()
    link.say(message, BODY)
    until(lambda: victim.ask()["counts"][count] > before["counts"][count], 5, count)
    row.runs, row.verified, row.units, row.named = (
        row.runs + 1,
        row.verified + 1,
        row.units + 1,
        row.named + 1,
    )
    same(row, before, victim.ask(), count)


def _land(link: Link, victim: Victim, tokens: int = 16) -> TransferId:
    transfer = _reserve(link, tokens)
    link.until(wire.Grant)
    data = _data(transfer, 0, 0, tokens, BODY)
    link.say(data, BODY)
    link.say(wire.Commit(transfer, "e", 1, len(BODY), digest([data.checksum]), checksum(b"f")), b"f")
    link.until(wire.Adopted)
    return transfer


def _unknown(row: Row, victim: Victim, link: Link) -> None:
    _stale(row, victim, link, _data(TransferId("0" * 32), 0, 0, 16, BODY), "unknown")


def _out_of_range(row: Row, victim: Victim, link: Link) -> None:
    transfer = _reserve(link, 16)
    link.until(wire.Grant)
    _stale(row, victim, link, _data(transfer, 0, 16, 16, BODY), "out_of_range")
    link.say(wire.Abort(transfer, "e", "enough", ""))


def _consumed(row: Row, victim: Victim, link: Link) -> None:
    """Adopted, and sent once more with other bytes behind the same name."""
    transfer = _land(link, victim)
    _stale(row, victim, link, _data(transfer, 0, 0, 16, BODY), "late")


def _reused(row: Row, victim: Victim, link: Link) -> None:
    """Its pages belong to another transfer by now."""
    transfer = _reserve(link, 16)
    link.until(wire.Grant)
    link.say(wire.Abort(transfer, "e", "cancelled", ""))
    until(lambda: transfer in victim.ask()["dropped"], 5, "the cancel")
    next_one = _reserve(link, 16)  # the victim hands out the slots that came back last
    link.until(wire.Grant)
    _stale(row, victim, link, _data(transfer, 0, 0, 16, BODY), "late")
    link.say(wire.Abort(next_one, "e", "enough", ""))


def _expired(row: Row, victim: Victim, link: Link) -> None:
    transfer = _reserve(link, 16, deadline_ms=30)
    link.until(wire.Grant)
    until(lambda: victim.ask()["dropped"].get(transfer) == "deadline", 5, "the deadline")
    _stale(row, victim, link, _data(transfer, 0, 0, 16, BODY), "late")


SCENARIOS: dict[str, Scenario] = {"F15": f15, "F18": f18, "F20": f20}
