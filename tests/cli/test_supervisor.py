"""The supervisor over real processes and real signals. Each child is a few lines of Python."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READY = 'print(\'{"event": "ready", "facts": {}}\', flush=True)\n'
CHILD = "import os, signal, sys, threading, time\nfrom pagewire import lifeline\n"
WAIT = "lifeline.watch(0, grace=0.2)\nthreading.Event().wait()\n"
GOOD = CHILD + READY + WAIT
DEAF = CHILD + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + WAIT
POLITE = (
    CHILD
    + "def bye(*_):\n    os.write(2, b'bye\\n')\n    sys.exit(0)\n"
    + "signal.signal(signal.SIGTERM, bye)\n"
    + READY
    + "lifeline.watch(0)\nwhile True: time.sleep(60)\n"
)
STUBBORN = (
    CHILD
    + "signal.signal(signal.SIGTERM, lambda *_: os.write(2, b'not me\\n'))\n"
    + READY
    + "lifeline.watch(0, grace=0.2)\nwhile True: time.sleep(60)\n"
)


class World:
    """A supervisor process and what it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self, pattern: str) -> re.Match[str]:
        """The next line of output that matches."""
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            if match := re.search(pattern, line):
                return match
            seen.append(line)
        raise AssertionError(f"no line matches {pattern!r} in {''.join(seen)}")

    def ready(self) -> dict[str, Running]:
        pids = json.loads(self.line(r"^all ready (.*)")[1])
        return {name: Running(pid) for name, pid in pids.items()}

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> str:
        return self.line(r"^end (.*)")[1]


@contextmanager
def world(*, grace: float = 5.0, max_failures: int = 8, **children: str) -> Iterator[World]:
    text = json.dumps({"children": children, "grace": grace, "max_failures": max_failures})
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(ROOT / "tests/cli/fake_supervisor.py"), text],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        start_new_session=True,  # so that whoever inherits the children is of another session, as init is
    )
    try:
        yield World(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Running:
    """A child of the supervisor, held so that its pid cannot be taken for another's."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._fd, number)

    def ends(self, within: float) -> bool:
        return bool(select.select([self._fd], [], [], within)[0])

    def __del__(self) -> None:
        os.close(self._fd)


def gone(children: Iterable[Running], within: float = 3.0) -> bool:
    return all(child.ends(within) for child in children)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_its_children_when_asked(number: signal.Signals) -> None:
    with world(a=GOOD, b=GOOD) as w:
        children = w.ready()
        w.signal(number)
        assert w.end().startswith("0")
        assert gone(children.values(), within=0.5)


def test_it_exits_itself_once_all_has_ended() -> None:
    with world(a=GOOD) as w:
        w.ready()
        w.signal(signal.SIGTERM)
        assert w.process.wait(timeout=10) == 0


def test_children_are_asked_before_they_are_killed() -> None:
    with world(a=POLITE) as w:
        w.ready()
        w.signal(signal.SIGTERM)
        assert w.line(r"\[a\] (.*)")[1] == "bye"


def test_a_child_that_does_not_listen_is_killed_after_the_grace() -> None:
    with world(a=STUBBORN, grace=0.1) as w:
        children = w.ready()
        w.signal(signal.SIGTERM)
        assert w.end().startswith("0")
        assert gone(children.values(), within=0.5)


def test_a_second_signal_kills_at_once() -> None:
    with world(a=STUBBORN, grace=1000) as w:
        w.ready()
        w.signal(signal.SIGINT)
        w.line("not me")
        w.signal(signal.SIGINT)
        assert w.end().startswith("0")


def test_a_dead_child_is_started_again() -> None:
    with world(a=GOOD, b=GOOD) as w:
        children = w.ready()
        children["a"].signal(signal.SIGKILL)
        assert w.line(r"pagewire: a (.*); starting it again in 0.1 s")[1] == "killed by signal 9"
        assert int(w.line(r"^a: ready, pid (\d+)")[1]) != children["a"].pid
        assert not children["b"].ends(within=0)


def test_it_gives_up_on_a_child_that_keeps_dying() -> None:
    with world(a="import sys; sys.exit('out of luck')", b=GOOD, max_failures=3) as w:
        assert w.end() == "1 a ended with exit code 1, 3 times in a row; its last words:"
        w.line("^  out of luck")


def test_a_child_that_can_never_start_ends_everything() -> None:
    event = json.dumps({"event": "failed", "code": "bad_model", "message": "there is no such model"})
    with world(a=f"print({event!r}); raise SystemExit(2)", b=GOOD) as w:
        assert w.end() == "2 there is no such model"


def test_a_child_that_was_ready_once_is_started_again_whatever_it_says() -> None:
    event = json.dumps({"event": "failed", "code": "bad_config", "message": "no room just now"})
    with world(a=READY + f"print({event!r}); raise SystemExit(2)") as w:
        assert w.line("pagewire: a (.*); starting")[1] == "ended with exit code 2"


def stopped(pid: int) -> bool:
    """True once every thread has: only then does the kernel call the process stopped."""
    states = [
        task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return set(states) == {"T"}


def test_kill_9_of_the_supervisor_leaves_no_child() -> None:
    with world(a=GOOD, b=DEAF, c=POLITE) as w:
        children = w.ready()
        w.signal(signal.SIGKILL)
        assert gone(children.values())


def test_nor_a_child_that_was_stopped_by_then() -> None:
    with world(a=GOOD) as w:
        children = w.ready()
        children["a"].signal(signal.SIGSTOP)
        while not stopped(children["a"].pid):
            os.sched_yield()
        w.signal(signal.SIGKILL)
        assert gone(children.values())


def test_children_do_not_hold_each_others_lifeline() -> None:
    # b is deaf to the signal that the kernel sends: only end of file on its own pipe can end it.
    with world(a=DEAF.replace("grace=0.2", "grace=1000"), b=DEAF) as w:
        children = w.ready()
        w.signal(signal.SIGKILL)
        assert gone([children["b"]])
        children["a"].signal(signal.SIGKILL)


def test_a_child_gets_its_options_and_its_environment() -> None:
    source = "print(sys.stdin.readline().strip(), os.environ['OMP_NUM_THREADS'], file=sys.stderr)\n"
    with world(a=CHILD + source + WAIT) as w:
        assert w.line(r"\[a\] (.*)")[1] == '{"answer": 42} 3'


def test_what_a_child_prints_by_mistake_is_logged() -> None:
    with world(a="print('hello'); print('{\"event\": 1}', flush=True)\n" + GOOD) as w:
        assert w.line(r"\[a\] (.*)")[1] == "hello"
        assert w.line(r"\[a\] (.*)")[1] == '{"event": 1}'


def test_a_line_without_end_does_not_choke_it() -> None:
    with world(a="import sys; sys.stderr.write('x' * 3_000_000 + '\\n')\n" + GOOD) as w:
        w.ready()


def test_progress_is_said_a_quarter_at_a_time() -> None:
    event = 'print(\'{"event": "loading", "done": %d, "total": 8}\', flush=True)\n'
    with world(a="".join(event % n for n in range(9)) + GOOD) as w:
        assert [w.line(r"a: loading, (\d+)%")[1] for _ in range(4)] == ["25", "50", "75", "100"]
