"""Grammars of strangers are compiled in children that may be killed, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from benchmarks.structured_cases import HOSTILE
from pagewire.errors import RequestError, Unavailable
from pagewire.sampling import Grammar
from router.grammar_check import MAX_OPEN, GrammarCheck
from router.grammar_process import GrammarProcess, Verdict
from router.schemas import CompletionBody
from router.structured import grammar_of

GOOD = Grammar("regex", "a+")


@pytest.fixture(scope="module")
def shared() -> Iterator[GrammarCheck]:
    made = GrammarCheck("demo", children=1)
    yield made
    made.close()


@pytest.fixture
def checks(shared: GrammarCheck) -> GrammarCheck:
    """With one child, that of the other tests, and nothing that is known."""
    shared._known.clear()
    return shared


@pytest.fixture
def process(shared: GrammarCheck) -> GrammarProcess:
    return shared.processes[0]


def counted(checks: GrammarCheck, monkeypatch: pytest.MonkeyPatch) -> list[Grammar]:
    """What is asked of children from now on."""
    asked: list[Grammar] = []
    compile_ = checks._compile

    def noted(grammar: Grammar) -> Verdict:
        asked.append(grammar)
        return compile_(grammar)

    monkeypatch.setattr(checks, "_compile", noted)
    return asked


async def test_a_good_one_passes(checks: GrammarCheck) -> None:
    await checks.check(GOOD, "p")


async def test_a_bad_one_is_refused_with_its_field(checks: GrammarCheck) -> None:
    with pytest.raises(RequestError, match="unclosed group") as caught:
        await checks.check(Grammar("regex", "(("), "guided_regex")
    assert caught.value.param == "guided_regex"


async def test_what_is_known_is_not_asked_again(
    checks: GrammarCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = counted(checks, monkeypatch)
    for _ in range(3):
        await checks.check(GOOD, "p")
        with pytest.raises(RequestError):
            await checks.check(Grammar("regex", "(("), "p")
    assert len(asked) == 2


async def test_those_who_ask_at_once_share_an_answer(
    checks: GrammarCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = counted(checks, monkeypatch)
    await asyncio.gather(*(checks.check(GOOD, "p") for _ in range(20)))
    assert asked == [GOOD]


async def test_one_who_leaves_takes_the_answer_from_nobody(checks: GrammarCheck) -> None:
    leaver, stayer = (asyncio.create_task(checks.check(GOOD, "p")) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    await stayer
    assert leaver.cancelled()


async def test_too_many_at_once_are_put_off(checks: GrammarCheck) -> None:
    many = [checks.check(Grammar("regex", "a" * count), "p") for count in range(1, MAX_OPEN + 3)]
    results = await asyncio.gather(*many, return_exceptions=True)
    refused = [r for r in results if r is not None]
    assert [type(r) for r in refused] == [Unavailable] * 2


@pytest.mark.parametrize(("name", "fields"), HOSTILE, ids=[name for name, _ in HOSTILE])
def test_hostile_grammars_are_answered_in_time(
    process: GrammarProcess, name: str, fields: dict[str, Any]
) -> None:
    process.check(GOOD)  # it has started
    began = time.monotonic()
    try:
        grammar = grammar_of(CompletionBody.model_validate({"prompt": "x", **fields}))
    except RequestError:
        return
    assert grammar is not None
    process.check(grammar)
    assert time.monotonic() - began < 2.5


def test_a_child_that_hangs_is_killed_and_replaced(process: GrammarProcess) -> None:
    process.check(GOOD)
    stuck = process.pid
    assert stuck is not None
    os.kill(stuck, signal.SIGSTOP)
    assert process.check(GOOD).fault.startswith("the grammar takes more than 2 seconds")
    assert not psutil.pid_exists(stuck)
    assert process.check(GOOD) == Verdict("")
    assert process.pid not in (None, stuck)


def test_a_child_that_died_costs_no_grammar(process: GrammarProcess) -> None:
    process.check(GOOD)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -9 {process.pid}"])
    assert process.check(GOOD) == Verdict("")
    assert killer.wait() == 0


def test_a_grammar_of_which_children_die_is_refused() -> None:
    weak = GrammarProcess("demo", program=("-c", "print('\"ready\"', flush=True); input()"))
    verdict = weak.check(GOOD)
    weak.close()
    assert (bool(verdict.fault), verdict.sure) == (True, False)


def test_memory_is_bounded(process: GrammarProcess) -> None:
    process.check(GOOD)
    assert process.pid is not None
    soft, _ = psutil.Process(process.pid).rlimit(psutil.RLIMIT_AS)
    assert soft - psutil.Process(process.pid).memory_info().vms <= 512 << 20


def test_nothing_is_left_open() -> None:
    before = psutil.Process().num_fds(), len(psutil.Process().children())
    one = GrammarProcess("demo")
    one.check(GOOD)
    one.close()
    assert (psutil.Process().num_fds(), len(psutil.Process().children())) == before


def test_without_a_child_there_is_no_answer() -> None:
    with pytest.raises(Unavailable):
        GrammarProcess("/no/such/model").check(GOOD)


def test_a_child_ends_with_its_parent() -> None:
    program = (
        "from router.grammar_process import GrammarProcess\n"
        "from pagewire.sampling import Grammar\n"
        "import sys\n"
        "made = GrammarProcess('demo')\n"
        "made.check(Grammar('regex', 'a'))\n"
        "print(made.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
    gone, _ = psutil.wait_procs([child], timeout=5)
    assert gone or child.status() == "zombie"
