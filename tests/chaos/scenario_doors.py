"""F16 and F17: what comes before a message is read. Oversize and unfinished frames, half-open connections,
wrong and replayed credentials, at the handoff's port and at the mailbox's.

Pass: nothing of it is read as a message, every refused kind is counted and named in the log (at a bounded
rate), memory grows by less than 64 MiB, and who is healthy goes on.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

import here  # noqa: F401
import zmq
from doors import HandoffDoor, MailboxDoor, door, hello
from hostile import GROWTH_MIB, Link, secret_file, until
from report import FaultMissing, Plan, Row, Scenario
from victim import SMALL

from kv_transfer import wire
from kv_transfer.wire import TransferId, checksum
from pagewire.mailbox import TO_ROUTER
from pagewire.secret import apply_client, key_pair

Door = HandoffDoor | MailboxDoor
MIB = 1 << 20


# --- F16 ----------------------------------------------------------------------------------------------------


def f16(plan: Plan) -> Row:
    row = Row("F16", "oversize and unfinished frames, half-open connections", unit="connections")
    for kind in (HandoffDoor, MailboxDoor):
        with secret_file() as file, door(kind, file) as at:
            for attack in (_half_open, _unfinished_handshakes, _unfinished_multipart):
                began = time.monotonic()
                count, note = attack(at, plan)
                row.runs += 1
                row.verified += 1
                row.units += count
                row.named += count
                row.took(time.monotonic() - began)
                row.notes.append(f"{at.name}: {note}; +{at.grown:.1f} MiB")
                plan.step(note)
            _healthy(row, at)
            if isinstance(at, HandoffDoor):
                _oversize(row, at)
            row.notes.append(f"{at.name}: counted {at.refusals()}")
    return row


def _healthy(row: Row, at: Door, read: int = 0) -> None:
    """``read``: messages of strangers that were meant to be read."""
    if at.grown > GROWTH_MIB:
        row.problems.append(f"{at.name}: memory grew by {at.grown:.0f} MiB")
    if sick := at.sick():
        row.problems.append(f"{at.name}: {sick}")
    if (heard := at.heard()) != read:
        row.problems.append(f"{at.name}: {heard} messages of strangers were read, not {read}")


def _half_open(at: Door, plan: Plan) -> tuple[int, str]:
    """Connections that say nothing: few are kept, and none longer than the handshake may take."""
    base, most, held = at.process.num_fds(), 0, []
    for number in range(plan.count(10_000, 500)):
        try:
            held.append(socket.create_connection(("127.0.0.1", at.port), timeout=5))
        except OSError:
            break
        if number % 100 == 0:
            most = max(most, at.process.num_fds() - base)
            at.look()
    if len(held) < 400:
        raise FaultMissing(f"only {len(held)} connections could be opened")
    began = time.monotonic()
    until(lambda: at.process.num_fds() - base <= 4, 10, "half-open connections are closed")
    took = time.monotonic() - began
    at.look()
    for one in held:
        one.close()
    return len(held), f"{len(held):,} half-open connections, {most} at once, gone {took:.1f} s after the last"


def _greeting(mechanism: bytes) -> bytes:
    start = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01"
    return start + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


def _pour(at: Door, first: bytes, chunk: bytes, total: int) -> int:
    """Send ``first`` and then ``chunk`` again and again. Returns the bytes that got through until the end."""
    sent = 0
    with socket.create_connection(("127.0.0.1", at.port), timeout=3) as one, contextlib.suppress(OSError):
        one.sendall(first)
        while sent < total:
            one.sendall(chunk)
            sent += len(chunk)
            at.look()
    return sent


def _unfinished_handshakes(at: Door, plan: Plan) -> tuple[int, str]:
    """A handshake's first command of 8 MiB, all but the last byte, on many connections at the same time."""
    count, size = plan.count(200, 40), 8 * MIB
    first = _greeting(b"CURVE") + b"\x06" + size.to_bytes(8, "big") + b"\x05HELLO"
    sent: list[int] = []

    def one() -> None:
        for _ in range(count // 8):
            sent.append(_pour(at, first, bytes(MIB), size - MIB))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if sum(sent) < 64 * MIB:
        raise FaultMissing(f"only {sum(sent)} bytes of handshakes got through")
    return len(sent), f"{len(sent)} unfinished handshakes, {sum(sent) // MIB:,} MiB sent"


def _unfinished_multipart(at: Door, plan: Plan) -> tuple[int, str]:
    """Parts that never end, without a key: 1 GiB if nobody stops it."""
    ready = b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
    part = b"\x03" + MIB.to_bytes(8, "big") + bytes(MIB)
    total = plan.count(1024) * MIB
    sent = [_pour(at, _greeting(b"NULL") + ready, part, total) for _ in range(4)]
    if max(sent) >= total:
        raise FaultMissing("nobody stopped it")  # as bad as can be, and the memory tells
    return 4, f"unfinished multiparts without a key were cut off after at most {max(sent) // MIB} MiB"


def _oversize(row: Row, at: HandoffDoor) -> None:
    """From a peer with the right key: refused all the same."""
    victim = at.victim
    with Link(victim, at.secret) as link:
        cases = {
            "a header of 4 KiB + 1": [_head(4097, 0)],
            "a header of 64 KiB + 1": [_head(65537, 0)],
            "10,000 parts": [b"x"] * 10_000,
            "a body one byte longer than its frame says": [_head(10, 8 * MIB), bytes(8 * MIB + 1)],
        }
        for name, parts in cases.items():
            before = victim.ask()["counts"]["malformed"]
            link.send(*parts)
            until(lambda before=before: victim.ask()["counts"]["malformed"] > before, 10, name)
            row.runs, row.verified = row.runs + 1, row.verified + 1
            row.units, row.named = row.units + 1, row.named + 1
    with Link(victim, at.secret) as link:
        link.send(_head(10, 0), bytes(9 * MIB))
        until(lambda: link.down, 10, "the connection is closed on a part over the cap")
    at.look()
    if sick := at.sick():
        row.problems.append(sick)
    row.notes.append(
        f"oversize frames from a peer with the key: counted, or its connection closed; +{at.grown:.1f} MiB"
    )


def _head(header: int, body: int) -> bytes:
    fixed = wire._FIXED.pack(wire.MAGIC, wire.MAJOR, wire.MINOR, 4, 0, header, body)
    return fixed + bytes(8) + bytes(header)


# --- F17 ----------------------------------------------------------------------------------------------------


def f17(plan: Plan) -> Row:
    row = Row("F17", "wrong and replayed credentials", unit="connections")
    for kind in (HandoffDoor, MailboxDoor):
        with secret_file() as file, door(kind, file) as at:
            began = time.monotonic()
            for name, prepare in _imposters(at).items():
                _refused(row, at, name, plan.count(20, 3), lambda p=prepare: _knock(at, p))
            record = _record(at)
            until(lambda at=at: at.heard() == 1, 5, "the recorded message, which is read")
            _refused(row, at, "replayed handshake", plan.count(20, 3), lambda r=record: _replay(at, r))
            seconds = time.monotonic() - began
            lines = at.log()
            row.notes.append(
                f"{at.name}: {at.refusals()}, {len(lines)} log lines in {seconds:.0f} s: {lines[0].strip()}"
            )
            if not 1 <= len(lines) <= seconds + 3:
                row.problems.append(f"{at.name}: {len(lines)} log lines in {seconds:.0f} s")
            _healthy(row, at, read=1)
    return row


def _refused(row: Row, at: Door, name: str, times: int, attempt: Callable[[], None]) -> None:
    before = at.refusals()
    for _ in range(times):
        attempt()

    def counted() -> int:
        now = at.refusals()
        return sum(now[k] - before[k] for k in ("denied", "failed"))

    until(lambda: counted() >= times, 15, f"{at.name}: {name} counted {times} times")
    row.runs += 1
    row.verified += 1
    row.units += times
    row.named += times


def _imposters(at: Door) -> dict[str, Callable[[zmq.Socket[bytes]], None]]:
    server = key_pair(at.secret, at.side)

    def plain(socket_: zmq.Socket[bytes]) -> None:
        socket_.setsockopt(zmq.PLAIN_USERNAME, b"admin")
        socket_.setsockopt(zmq.PLAIN_PASSWORD, b"admin")

    def unknown_key(socket_: zmq.Socket[bytes]) -> None:
        public, private = zmq.curve_keypair()
        socket_.setsockopt(zmq.CURVE_SERVERKEY, server.public)
        socket_.setsockopt(zmq.CURVE_PUBLICKEY, public)
        socket_.setsockopt(zmq.CURVE_SECRETKEY, private)

    others = [
        side for side in ("router", "prefill", "decode", "sender", "receiver") if side not in at.clients
    ]
    swaps = {
        f"the key of a {side}": lambda s, side=side: apply_client(s, at.secret, side, at.side)
        for side in others
    }
    return {
        "no key": lambda s: None,
        "a password": plain,
        "another secret": lambda s: apply_client(s, b"w" * 32, at.clients[0], at.side),
        "an unknown key": unknown_key,
        **swaps,
    }


def _message(at: Door) -> list[bytes]:
    if isinstance(at, MailboxDoor):
        return [TO_ROUTER.encode(hello("prefill", "imposter"))]
    reserve = wire.Reserve(TransferId("e" * 32), "e", 4, SMALL, 9000, checksum(b""))
    return [wire.encode(reserve)]


def _knock(at: Door, prepare: Callable[[zmq.Socket[bytes]], None]) -> None:
    """Connect with what ``prepare`` sets, and send a message that would be good with the right key."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    one = context.socket(zmq.DEALER)
    one.setsockopt(zmq.IDENTITY, b"prefill-imposter/e")
    one.setsockopt(zmq.RECONNECT_IVL, -1)
    prepare(one)
    monitor = one.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
    one.connect(f"tcp://127.0.0.1:{at.port}")
    with contextlib.suppress(zmq.Again):  # it may have been hung up on already
        one.send_multipart(_message(at), zmq.NOBLOCK)
    monitor.poll(3000)  # until the other side hangs up
    one.disable_monitor()
    monitor.close(linger=0)
    one.close(linger=0)
    context.term()


def _record(at: Door) -> list[bytes]:
    """What a right peer sends on the wire, byte by byte, from its greeting to its first message."""
    said: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as between:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        one = context.socket(zmq.DEALER)
        one.setsockopt(zmq.IDENTITY, b"prefill-imposter/e")
        apply_client(one, at.secret, at.clients[0], at.side)
        one.connect(f"tcp://127.0.0.1:{between.getsockname()[1]}")
        one.send(b"\0")  # a probe, which says nothing, or a message that cannot be read
        near, _ = between.accept()
        with near, socket.create_connection(("127.0.0.1", at.port)) as far:
            for pipe in (near, far):
                pipe.settimeout(0.05)
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    said.append(near.recv(65536))
                    far.sendall(said[-1])
                with contextlib.suppress(TimeoutError):
                    near.sendall(far.recv(65536))
        one.close(linger=0)
        context.term()
    if sum(map(len, said)) < 500:
        raise FaultMissing("no handshake was recorded")
    return said


def _replay(at: Door, record: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", at.port), timeout=3) as one, contextlib.suppress(OSError):
        for said in record:
            one.sendall(said)
            time.sleep(0.01)
        while one.recv(65536):
            pass


SCENARIOS: dict[str, Scenario] = {"F16": f16, "F17": f17}
