from __future__ import annotations

import pytest
from handoff_model.bugs import BUGS, Bug
from handoff_model.mutants import WORLDS, Hunt, Mutant, tally
from handoff_model.search import Result, search
from handoff_model.shells import LARGE_SHELLS, SHELLS, search_shells
from handoff_model.sides import Config, Tables
from handoff_model.world import World
from model_check import LARGE, QUICK

from kv_transfer.incoming import Landing
from kv_transfer.outgoing import Outgoing
from kv_transfer.protocol import Event, ReceiverState, SenderState
from kv_transfer.transfers import Transfer

DAMAGE = Config(name="damage", parts=1, damage=True)
TWO_LIVES = Config(name="two lives", parts=1, receiver_lives=2)
RETRACTS = Config(name="retracts", parts=1, retracts=True)


def sound(result: Result, least: int) -> None:
    assert not result.wrong, result.story()
    assert result.states >= least, "the world has lost most of its states"


@pytest.mark.parametrize("config", QUICK, ids=lambda c: c.name)
def test_no_promise_is_broken_in_a_small_world(config: Config) -> None:
    sound(search(World(config)), 4_000)


@pytest.mark.soak
@pytest.mark.parametrize("config", LARGE, ids=lambda c: c.name)
def test_no_promise_is_broken_in_a_larger_world(config: Config) -> None:
    sound(search(World(config)), 20_000)


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: b.name)
def test_a_bug_that_is_put_in_is_found(bug: Bug) -> None:
    result = bug.hunt()
    assert bug.found in result.wrong
    assert result.trace


def test_a_trace_reads_as_a_story_of_what_happened() -> None:
    bug = next(b for b in BUGS if b.name == "a lost peer drops nothing")
    assert bug.hunt().story().splitlines() == [
        "  1 sender   reserve: NONE -> RESERVING; sends RESERVE()",
        "  2 receiver <- RESERVE(): NONE -> RESERVED",
        "  3 receiver grant 0: RESERVED -> FILLING; sends GRANT(0, 1, 1) of life 0",
        "  => without its peer the receiver does not end: FILLING",
    ]


@pytest.mark.parametrize("config", SHELLS, ids=lambda c: c.name)
def test_the_real_shells_break_no_promise(config: Config) -> None:
    sound(search_shells(config), 3_000)


@pytest.mark.soak
@pytest.mark.parametrize("config", LARGE_SHELLS, ids=lambda c: c.name)
def test_the_real_shells_break_no_promise_in_a_larger_world(config: Config) -> None:
    sound(search_shells(config), 40_000)


@pytest.mark.soak
def test_a_shell_that_does_not_look_at_the_life_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transfer, "owns", lambda t, peer, epoch: peer == t.peer)
    assert "Done is told" in search_shells(TWO_LIVES, liveness=False).wrong


def test_a_shell_that_does_not_look_at_the_peer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transfer, "owns", lambda t, peer, epoch: t.peer_epoch in ("", epoch))
    assert search_shells(RETRACTS, liveness=False).wrong


def test_a_shell_that_does_not_look_at_the_digest_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Landing, "agrees", lambda landing, commit: landing.coverage.missing == 0)
    assert search_shells(DAMAGE, liveness=False).wrong == "what has landed is not what was computed"


def test_a_shell_that_reads_on_after_a_retraction_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outgoing, "retract", lambda t: None)
    assert search_shells(RETRACTS, liveness=False).wrong == "source pages are read that are not published"


@pytest.fixture(scope="module")
def hunt() -> Hunt:
    return Hunt(WORLDS[:3])


@pytest.mark.soak
def test_every_small_change_of_a_rule_is_found() -> None:
    result = tally(Hunt())
    assert result.mutants > 800
    assert result.survivors == []


def test_every_small_change_of_a_few_rules_is_found(hunt: Hunt) -> None:
    rules = {
        (SenderState.STREAMING, Event.ABORT),
        (ReceiverState.FILLING, Event.DATA),
        (ReceiverState.RESERVED, Event.DO_REFUSE),
    }
    result = tally(hunt, rules)
    assert result.mutants > 20
    assert result.survivors == []


def test_the_parts_of_the_mutants_are_all_of_them(hunt: Hunt) -> None:
    rules = {(SenderState.RESERVING, Event.REFUSE)}
    parts = [tally(hunt, rules, (k, 3)).mutants for k in (1, 2, 3)]
    assert sum(parts) == tally(hunt, rules).mutants > len(parts)


def test_a_mutant_that_changes_nothing_survives(hunt: Hunt) -> None:
    """The search can say so: here a rule is changed into itself."""
    rule = Tables().sender[SenderState.STREAMING][Event.GRANT]
    assert hunt.survives(Mutant(SenderState.STREAMING, Event.GRANT, rule, "the same"))
