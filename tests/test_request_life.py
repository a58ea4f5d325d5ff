"""One request's life, read from top to bottom: both nodes in one process, on a wire without sockets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import one_process
import pytest
from one_process import ROUTER, World
from tiny import model_folder, sequence

from kv_transfer import Lost, Refused
from kv_transfer.transports.base import Arrived, Peer
from kv_transfer.transports.loopback import Loopback
from pagewire.engine.build import build_engine
from pagewire.engine.staging import PinnedPages
from pagewire.mailbox import NODE_TO_NODE
from pagewire.messages import DECODE, PREFILL, FirstTokens, Handoff, TokenItem, Tokens
from pagewire.sampling import SamplingParams
from pagewire.timeline import (
    CACHED_TOKENS,
    FIRST_STEP,
    LANDING,
    PREFILL_COMPUTE,
    QUEUE,
    RESERVE,
    TRANSFER_BYTES,
    TRANSFER_EXPOSED,
    TRANSFER_HIDDEN,
)

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
PROMPT = [5 + i * 7 % 90 for i in range(50)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny").path


@pytest.fixture(params=["", "flexible", "ahead"], autouse=True)
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it holds for nodes with both roles too, and when steps begin before the last tokens are seen."""
    monkeypatch.setattr(one_process, "flexible", request.param == "flexible")
    monkeypatch.setattr(one_process, "ahead", request.param == "ahead")
    if request.param == "ahead":  # and KV goes the way that it goes on a GPU
        monkeypatch.setattr(one_process, "handoff_pages", PinnedPages)


def colocated(folder: Path, tokens: list[int], params: SamplingParams, seed: int = 7) -> dict[int, list[int]]:
    """The same request on one engine."""
    engine = build_engine(
        model_folder(folder), load_format="dummy", kv_cache_bytes=1 << 20, **one_process.on_a_gpu()
    ).engine
    engine.admit(sequence(tokens, params, seed=seed))
    answers: dict[int, list[int]] = {}
    while engine.busy:
        for token in engine.step().tokens:
            answers.setdefault(token.choice, []).append(token.sampled.token)
    return answers


def test_the_answer_is_that_of_one_engine(folder: Path) -> None:
    world = World(folder)
    request = world.ask(PROMPT, GREEDY)
    world.run()
    assert world.answers() == {(request, 0): (colocated(folder, PROMPT, GREEDY)[0], "length")}
    world.check_nothing_is_held()


def test_prefill_sends_the_first_token_and_decode_the_rest(folder: Path) -> None:
    world = World(folder)
    world.ask(PROMPT, GREEDY)
    world.run()
    assert [item.index for item in world.items(PREFILL)] == [0]
    assert [item.index for item in world.items(DECODE)] == list(range(8))


@pytest.mark.parametrize("kv_cache_dtype", ["float32", "bfloat16"])
def test_every_span_of_the_timeline_is_told(folder: Path, kv_cache_dtype: str) -> None:
    world = World(folder, kv_cache_dtype=kv_cache_dtype)
    world.ask(PROMPT, GREEDY)
    world.run()
    prefill, decode = world.spans(PREFILL)[-1], world.spans(DECODE)[-1]
    assert set(prefill.ms) == {QUEUE, RESERVE, PREFILL_COMPUTE, TRANSFER_HIDDEN, TRANSFER_EXPOSED}
    assert set(decode.ms) == {LANDING, QUEUE, FIRST_STEP}
    assert prefill.pid != decode.pid
    assert prefill.counts[TRANSFER_BYTES] == len(PROMPT) * world.token_bytes


def test_choices_share_one_prefill_and_one_transfer(folder: Path) -> None:
    params = SamplingParams(temperature=0.9, n=3, max_tokens=6, ignore_eos=True)
    world = World(folder)
    request = world.ask(PROMPT, params)
    world.run()
    expected = colocated(folder, PROMPT, params)
    assert world.answers() == {(request, c): (tokens, "length") for c, tokens in expected.items()}
    assert world.sender.counts.done == 1
    world.check_nothing_is_held()


def test_a_single_token_needs_no_handoff(folder: Path) -> None:
    world = World(folder)
    request = world.ask(PROMPT, SamplingParams(temperature=0.0, max_tokens=1))
    world.run()
    assert len(world.answers()[request, 0][0]) == 1
    assert world.sender.counts.reserved == 0
    world.check_nothing_is_held()


def test_what_decode_already_holds_is_not_sent_again(folder: Path) -> None:
    world = World(folder)
    first, second = world.ask(PROMPT, GREEDY), None
    world.run()
    sent = world.sender.counts.bytes
    second = world.ask(PROMPT, GREEDY)
    world.run()
    assert world.answers()[first, 0] == world.answers()[second, 0]
    assert world.sender.counts.bytes - sent == 2 * world.token_bytes  # 48 of 50 are in full pages there
    assert world.spans(PREFILL)[-1].counts[CACHED_TOKENS] == 48


@pytest.mark.parametrize(("prefill_size", "decode_size"), [(16, 16), (16, 64), (64, 16), (8, 1)])
@pytest.mark.parametrize("budget", [16, 512])
def test_page_sizes_may_differ_and_chunks_do_not_matter(
    folder: Path, prefill_size: int, decode_size: int, budget: int
) -> None:
    world = World(
        folder,
        prefill_page_size=prefill_size,
        decode_page_size=decode_size,
        prefill_pages=2048 // prefill_size,
        decode_pages=2048 // decode_size,
        budget=budget,
    )
    asked = {world.ask(PROMPT[: 3 + 9 * i], GREEDY): PROMPT[: 3 + 9 * i] for i in range(6)}
    world.run()
    for request, tokens in asked.items():
        assert world.answers()[request, 0][0] == colocated(folder, tokens, GREEDY)[0]
    world.check_nothing_is_held()


def test_small_pools_preempt_and_wait_and_change_nothing(folder: Path) -> None:
    long = SamplingParams(temperature=0.8, max_tokens=40, ignore_eos=True)
    world = World(
        folder, prefill_pages=14, decode_pages=16, prefill_page_size=8, decode_page_size=8, budget=24
    )
    asked = {world.ask(PROMPT[i : i + 30], long): PROMPT[i : i + 30] for i in range(12)}
    world.run()
    for request, tokens in asked.items():
        assert world.answers()[request, 0][0] == colocated(folder, tokens, long)[0]
    assert world.decode_engine.preemptions > 0
    world.check_nothing_is_held()


@pytest.mark.parametrize("turns", range(16))
def test_cancel_in_every_phase_frees_everything(folder: Path, turns: int) -> None:
    world = World(folder, budget=16)
    request = world.ask(PROMPT, GREEDY)
    for _ in range(turns):
        world.turn()
    world.cancel(request)
    world.run(100)
    world.check_nothing_is_held()


THREE = SamplingParams(temperature=0.9, n=3, max_tokens=12, ignore_eos=True)


@pytest.mark.parametrize("turns", range(20))
def test_a_choice_cut_at_any_time_changes_no_other(folder: Path, turns: int) -> None:
    world = World(folder, budget=16)
    request = world.ask(PROMPT, THREE)
    for _ in range(turns):
        world.turn()
    world.cancel(request, choice=1)
    world.run()
    expected, answers = colocated(folder, PROMPT, THREE), world.answers()
    assert [answers[request, c] for c in (0, 2)] == [(expected[c], "length") for c in (0, 2)]
    cut = answers[request, 1][0]
    assert cut == expected[1][: len(cut)]
    assert world.failures() == []
    world.check_nothing_is_held()


def test_a_cut_choice_gives_its_pages_back_at_once(folder: Path) -> None:
    world = World(folder)
    request = world.ask(PROMPT, THREE)
    while len(world.items(DECODE)) < 12:
        world.turn()
    before = world.decode_engine.accounts().leased
    for choice in (1, 1, 0):  # telling it twice does nothing more
        world.cancel(request, choice=choice)
    world.turn()
    assert [seq.choices for seq in world.decode_engine.sequences()] == [[2]]
    assert world.decode_engine.accounts().leased == before - 2
    world.cancel(request, choice=2)
    world.turn()
    assert world.quiet
    world.check_nothing_is_held()


def until_it_lands(world: World) -> None:
    while not world.decode.load().gauges["landing"]:
        world.turn()


def test_a_choice_cut_while_its_prompt_lands_is_not_begun(folder: Path) -> None:
    world = World(folder, budget=16)
    request = world.ask(PROMPT, THREE)
    until_it_lands(world)
    world.cancel(request, choice=1)
    world.run()
    assert {item.choice for item in world.items(DECODE)} == {0, 2}


def test_a_landing_of_which_every_choice_was_cut_is_given_up(folder: Path) -> None:
    world = World(folder, budget=16)
    request = world.ask(PROMPT, THREE)
    until_it_lands(world)
    for choice in range(3):
        world.cancel(request, choice=choice)
    world.run()
    assert world.items(DECODE) == []
    world.check_nothing_is_held()


def test_a_request_that_cannot_fit_decode_fails_by_name(folder: Path) -> None:
    world = World(folder, decode_pages=3)
    world.ask(PROMPT, GREEDY)
    world.run()
    (failed,) = world.failures()
    assert (failed.code, failed.retryable) == ("context_length_exceeded", False)
    world.check_nothing_is_held()


@pytest.mark.parametrize("turns", range(12))
def test_a_vanished_decode_node_fails_the_request_and_frees_prefill(folder: Path, turns: int) -> None:
    world = World(folder, budget=16)
    world.ask(PROMPT, GREEDY)
    for _ in range(turns):
        world.turn()
    world.network.leave(Peer(b"d"))
    for _ in range(20):
        world.now += 0.5
        world.prefill.turn()
    assert world.prefill.load().gauges["jobs"] == 0
    assert world.prefill_engine.accounts().leased == 0
    assert [f.retryable for f in world.failures()] == ([] if world.sender.counts.done else [True])


@pytest.mark.parametrize("turns", range(1, 12))
def test_a_vanished_prefill_node_frees_the_landing(folder: Path, turns: int) -> None:
    world = World(folder, budget=16)
    world.ask(PROMPT, GREEDY)
    for _ in range(turns):
        world.turn()
    world.network.leave(Peer(b"p"))
    for _ in range(40):
        world.now += 0.5
        world.decode.turn()
    assert world.decode.load().gauges["landing"] == 0
    assert world.decode_engine.accounts().leased == 0


class Damaging(Loopback):
    """Flips one bit of the body of the n-th frame with one."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def carry(self, target: Peer, frame: Arrived) -> None:
        if len(frame.body) > 2000:
            self.left -= 1
            if self.left == 0:
                body = bytearray(frame.body)
                body[len(body) // 2] ^= 4
                frame = frame._replace(body=bytes(body))
        self.deliver(target, frame)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_flipped_bit_never_becomes_an_answer(folder: Path, number: int) -> None:
    world = World(folder, budget=16, network=Damaging(number))
    request = world.ask(PROMPT, GREEDY)
    world.run()
    assert [failed.retryable for failed in world.failures()] == [True]
    assert len(world.answers().get((request, 0), ([], ""))[0]) <= 1  # the first token comes from prefill
    world.check_nothing_is_held()


@pytest.mark.parametrize("payload", [b"", b"\xc1", NODE_TO_NODE.encode(FirstTokens([]))])
def test_a_reservation_that_is_none_is_refused(folder: Path, payload: bytes) -> None:
    world = World(folder)
    transfer = world.sender.reserve("d", 3, payload, 10.0, world.now)
    world.decode.turn()
    (refused,) = world.sender.poll(world.now)
    assert isinstance(refused, Refused)
    assert (refused.transfer, refused.code, refused.retryable) == (transfer, "remote_protocol_error", False)
    world.check_nothing_is_held()


def test_a_first_token_beyond_the_vocabulary_is_not_adopted(folder: Path) -> None:
    world = World(folder)
    world.ask(PROMPT, GREEDY, name="forged")
    (_, request), *_ = world.posts[PREFILL].drain()
    payload = NODE_TO_NODE.encode(Handoff(ROUTER, request))
    transfer = world.sender.reserve("d", len(PROMPT), payload, 10.0, world.now)
    world.decode.turn()
    world.sender.poll(world.now)
    world.sender.publish(transfer, np.arange(len(PROMPT)), len(PROMPT))
    item = TokenItem(request.request, 1, 0, 0, token=96)
    world.sender.commit(transfer, NODE_TO_NODE.encode(FirstTokens([item])), world.now)
    events = []
    for _ in range(20):
        events += world.sender.poll(world.now)
        world.decode.turn()
    assert [type(event) for event in events] == [Lost]
    world.check_nothing_is_held()


@pytest.mark.parametrize("n", [1, 3])
def test_a_decode_node_alone_gives_the_same_answer(folder: Path, n: int) -> None:
    params = SamplingParams(temperature=0.9, n=n, max_tokens=6, ignore_eos=True)
    world = World(folder)
    request = world.ask(PROMPT, params, reader=DECODE)
    world.ask(PROMPT[::-1], params)  # and one beside it that comes the usual way
    world.run()
    answers = {key: answer for key, answer in world.answers().items() if key[0] == request}
    expected = colocated(folder, PROMPT, params)
    assert answers == {(request, c): (tokens, "length") for c, tokens in expected.items()}
    world.check_nothing_is_held()


def test_a_decode_node_alone_tells_the_times_of_both_roles(folder: Path) -> None:
    world = World(folder)
    world.ask(PROMPT, GREEDY, reader=DECODE)
    world.run()
    prefill, decode = world.spans(DECODE)
    assert (prefill.role, decode.role) == (PREFILL, DECODE)
    assert set(prefill.ms) == {QUEUE, PREFILL_COMPUTE, TRANSFER_HIDDEN, TRANSFER_EXPOSED}
    assert (prefill.counts[CACHED_TOKENS], prefill.counts[TRANSFER_BYTES]) == (0, 0)
    assert {QUEUE, FIRST_STEP} <= set(decode.ms)


def test_a_decode_node_alone_scores_the_prompt(folder: Path) -> None:
    world = World(folder)
    params = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True, prompt_logprobs=1)
    world.ask(PROMPT, params, reader=DECODE)
    world.ask(PROMPT, params)
    world.run()
    (alone,), (together,) = (
        [p for m in world.posts[role].sent if isinstance(m, Tokens) for p in m.prompt_logprobs]
        for role in (DECODE, PREFILL)
    )
    assert (alone.logprobs, alone.top) == (together.logprobs, together.top)


def test_a_request_that_a_decode_node_reads_can_be_cancelled_and_refused(folder: Path) -> None:
    world = World(folder, decode_pages=8)
    cancelled = world.ask(PROMPT * 2, GREEDY, reader=DECODE)
    world.turn()
    world.cancel(cancelled)
    world.ask(PROMPT * 4, GREEDY, reader=DECODE)  # more pages than there are
    world.run()
    assert [(f.code, f.retryable) for f in world.failures()] == [("context_length_exceeded", False)]
    assert not world.items()
    world.check_nothing_is_held()


def test_a_decode_node_without_room_holds_up_nobody_else(folder: Path) -> None:
    world = World(folder, prefill_pages=512)
    for number in range(40):
        world.ask([number, *PROMPT], GREEDY, address="d")
    world.ask(PROMPT, GREEDY, address="elsewhere")
    world.network.end("elsewhere")
    for _ in range(3):
        world.now += 0.01
        world.prefill.turn()  # and nobody at "d" answers
    asked = Counter(t.peer for t in world.sender._transfers)
    assert asked[Peer(b"elsewhere")] == 1
    assert asked[Peer(b"d")] * len(PROMPT) <= 2 * 64 + 2 * len(PROMPT)  # about two batches, no more
