from __future__ import annotations

from pagewire.errors import DeadlineExceeded, RequestFailed, Unavailable, WorkerLost
from pagewire.mailbox import Peer
from pagewire.messages import Cancel, Epoch, Failed, NodeId, RequestId, TokenItem
from pagewire.sampling import SamplingParams
from router.actions import Action, ChoiceEnd, Closed, End, Handed, Job, Open, Stop
from router.dispatch import ALONE_S, GAP_S, MAX_HELD, Dispatch
from router.placement import Pair, Query, Tried

ID = RequestId("f" * 32)
P0, P1 = Peer(NodeId("prefill-0"), Epoch("e")), Peer(NodeId("prefill-1"), Epoch("e"))
D0, D1 = Peer(NodeId("decode-0"), Epoch("e")), Peer(NodeId("decode-1"), Epoch("e"))


class World:
    """Nodes that come and go; the first untried living ones are chosen, in a pair that is not cut if there is
    one."""

    def __init__(self, n: int = 1, nodes: tuple[Peer, ...] = (P0, P1, D0, D1), **sampling: object) -> None:
        self.nodes = list(nodes)
        params = SamplingParams(n=n, max_tokens=100, **sampling)  # type: ignore[arg-type]
        self.job = Job(ID, [5, 6, 7], params, seed=1, cache_salt="", deadline=60.0)
        self.dispatch = Dispatch(self.job, self.choose)
        self.started = self.dispatch.start(0.0)

    def choose(self, query: Query, tried: Tried) -> Pair | None:
        ranked = sorted(self.nodes, key=lambda node: node in tried)
        prefills = [node for node in ranked if node.node.startswith("prefill")]
        decodes = [node for node in ranked if node.node.startswith("decode")]
        clear = [Pair(p, d, "shm://x") for d in decodes for p in prefills if (p, d) not in tried]
        if query.alone and decodes and not [pair for pair in clear if pair.prefill not in tried]:
            clear = [Pair(decodes[0], decodes[0], "shm://x")]
        return clear[0] if clear else None

    def token(
        self, peer: Peer, index: int, *, attempt: int = 0, choice: int = 0, finish: str = "", now: float = 0.0
    ) -> list[Action]:
        return self.dispatch.token(now, peer, item(index, attempt=attempt, choice=choice, finish=finish))

    def lose(self, peer: Peer, now: float = 0.0) -> list[Action]:
        self.nodes.remove(peer)
        return self.dispatch.lost(now, peer)


def item(index: int, *, attempt: int = 0, choice: int = 0, finish: str = "") -> TokenItem:
    return TokenItem(ID, attempt, choice, index, token=100 + index, finish=finish)


def failed(attempt: int = 0, *, retryable: bool = True, code: str = "x") -> Failed:
    return Failed(NodeId("n"), Epoch("e"), ID, attempt, code, "inside", retryable)


def opens(actions: list[Action]) -> list[Open]:
    return [action for action in actions if isinstance(action, Open)]


def indexes(actions: list[Action]) -> list[int]:
    return [action.index for action in actions if isinstance(action, TokenItem)]


def error(actions: list[Action]) -> object:
    assert isinstance(actions[-1], End)
    return actions[-1].error


def test_the_first_attempt_carries_all_choices() -> None:
    (opened,) = opens(World(n=3).started)
    assert (opened.message.attempt, opened.message.choices) == (0, [0, 1, 2])
    assert opened.message.tokens == [5, 6, 7]
    assert opened.message.num_prompt == 3
    assert opened.message.deadline_ms == 60_000


def test_tokens_of_both_nodes_make_one_stream() -> None:
    world = World()
    got = [*world.token(P0, 0), *world.token(D0, 0), *world.token(D0, 1)]
    assert indexes(got) == [0, 1]


def test_the_first_token_of_decode_hands_over() -> None:
    world = World()
    world.token(P0, 0)
    assert world.token(D0, 0) == [Handed(0)]


def test_a_token_before_its_turn_waits() -> None:
    world = World()
    assert indexes(world.token(D0, 1)) == []
    assert indexes(world.token(P0, 0)) == [0, 1]


def test_a_stranger_is_not_heard() -> None:
    world = World()
    assert world.token(D1, 0) == []


def test_a_finish_ends_choice_and_request() -> None:
    world = World()
    actions = world.token(P0, 0, finish="stop")
    assert actions[1:] == [ChoiceEnd(0, "stop"), Closed(0), End(None)]


def test_nothing_follows_the_end() -> None:
    world = World()
    world.token(P0, 0, finish="stop")
    assert world.token(D0, 1) == world.lose(D0) == world.dispatch.tick(99.0) == world.dispatch.cancel() == []


def test_decode_lost_before_a_token_starts_all_choices_again() -> None:
    world = World(n=2)
    actions = world.lose(D0)
    (opened,) = opens(actions)
    assert Stop(P0, Cancel(ID, 0)) in actions
    assert Stop(D0, Cancel(ID, 0)) not in actions
    assert (opened.message.attempt, opened.message.choices, opened.pair.decode) == (1, [0, 1], D1)


def test_decode_lost_after_tokens_goes_on_from_there() -> None:
    world = World(n=2)
    world.token(P0, 0, choice=0)
    world.token(P0, 0, choice=1)
    world.token(D0, 1, choice=1)
    first, second = opens(world.lose(D0))
    assert first.message.tokens == [5, 6, 7, 100]
    assert first.message.choices == [0]
    assert second.message.tokens == [5, 6, 7, 100, 101]
    assert second.message.choices == [1]
    assert {first.message.attempt, second.message.attempt} == {1, 2}
    assert first.message.num_prompt == 3


def test_tokens_of_an_old_attempt_do_not_count() -> None:
    world = World()
    world.token(P0, 0)
    world.lose(D0)
    assert world.token(P0, 1, attempt=0) == []
    assert indexes(world.token(D1, 1, attempt=1)) == [1]


def test_prefill_lost_after_the_handoff_changes_nothing() -> None:
    world = World()
    world.token(D0, 0)
    assert world.lose(P0) == []


def test_prefill_lost_before_the_handoff_is_a_new_attempt() -> None:
    world = World()
    world.token(P0, 0)
    (opened,) = opens(world.lose(P0))
    assert opened.pair.prefill == P1
    assert opened.message.tokens == [5, 6, 7, 100]


def test_a_failure_goes_to_other_nodes_first() -> None:
    (opened,) = opens(World().dispatch.failed(0.0, P0, failed()))
    assert opened.pair[:2] == (P1, D1)


def test_a_failure_with_nowhere_else_to_go_waits_a_moment() -> None:
    world = World(nodes=(P0, D0))
    assert opens(world.dispatch.failed(5.0, P0, failed())) == []
    assert opens(world.dispatch.tick(5.05)) == []
    assert len(opens(world.dispatch.tick(5.11))) == 1


def test_a_final_failure_ends_the_request_without_its_inner_words() -> None:
    actions = World().dispatch.failed(0.0, D0, failed(retryable=False))
    assert isinstance(error(actions), RequestFailed)
    assert "inside" not in str(error(actions))
    assert Stop(P0, Cancel(ID, 0)) in actions


def test_three_retries_are_enough() -> None:
    world, now = World(nodes=(P0, D0)), 0.0
    for attempt in range(4):
        actions = world.dispatch.failed(now, P0, failed(attempt))
        now += 2.0
        actions += world.dispatch.tick(now)
    assert isinstance(error(actions), Unavailable)


def test_it_waits_for_a_node_to_come_back() -> None:
    world = World(nodes=(P0, D0))
    assert opens(world.lose(D0, now=1.0)) == []
    world.nodes.append(D1)
    assert len(opens(world.dispatch.tick(5.0))) == 1
    assert world.dispatch.waited == 4.0


def test_without_a_prefill_node_decode_does_all_of_it_after_a_while() -> None:
    world = World(nodes=(D0,))
    assert not world.started
    assert not world.dispatch.tick(ALONE_S * 0.9)
    (opened,) = opens(world.dispatch.tick(ALONE_S))
    assert opened.pair[:2] == (D0, D0)
    assert indexes(world.token(D0, 0, now=2.0)) == [0]
    assert world.dispatch.cancel() == [Stop(D0, Cancel(ID, 0)), Closed(0), ChoiceEnd(0, "abort"), End(None)]


def test_decode_does_all_of_it_at_once_where_no_prefill_node_reaches_it() -> None:
    world = World(nodes=(P0, D0))
    cut_off = world.dispatch.failed(0.0, P0, failed(code="peer_lost"))
    again = opens([*cut_off, *world.dispatch.tick(0.5)])
    assert [opened.pair[:2] for opened in again] == [(D0, D0)]


def cut_off(attempt: int) -> Failed:
    return failed(attempt, code="peer_lost")


def test_a_pair_that_does_not_reach_each_other_parts_and_its_prefill_node_goes_on() -> None:
    (opened,) = opens(World().dispatch.failed(0.0, P0, cut_off(0)))
    assert opened.pair[:2] == (P0, D1)


def test_another_prefill_node_is_asked_where_there_is_no_other_decode_node() -> None:
    world = World(nodes=(P0, P1, D0))
    again = opens([*world.dispatch.failed(0.0, P0, cut_off(0)), *world.dispatch.tick(0.5)])
    assert [opened.pair[:2] for opened in again] == [(P1, D0)]


def test_a_failure_of_a_node_is_remembered_beside_that_of_a_pair() -> None:
    world = World(nodes=(P0, P1, D0, D1))
    world.dispatch.failed(0.0, P0, cut_off(0))
    again = opens([*world.dispatch.failed(0.0, P0, failed(1)), *world.dispatch.tick(1.0)])
    assert [opened.pair[:2] for opened in again] == [(P1, D0)]


def test_after_two_pairs_that_are_cut_decode_does_all_of_it() -> None:
    world = World()
    world.dispatch.failed(0.0, P0, cut_off(0))
    again = opens([*world.dispatch.failed(2.5, P0, cut_off(1)), *world.dispatch.tick(3.0)])
    assert [opened.pair[:2] for opened in again] == [(D0, D0)]
    assert indexes(world.token(D0, 0, attempt=2, now=3.0)) == [0]


def test_one_pair_that_is_cut_under_several_choices_is_one() -> None:
    world = World(n=2)
    world.token(P0, 0, choice=0)
    world.token(P0, 0, choice=1)
    world.lose(D0)  # each choice goes on by itself, both on the same nodes
    again = opens([*world.dispatch.failed(0.0, P0, cut_off(1)), *world.dispatch.failed(0.0, P0, cut_off(2))])
    again += opens(world.dispatch.tick(1.0))
    assert [opened.pair[:2] for opened in again] == [(P1, D1), (P1, D1)]


def test_a_full_decode_node_does_not_get_the_prompts_as_well() -> None:
    world = World(nodes=(P0, D0))
    world.dispatch.failed(0.0, P0, failed(code="busy"))
    assert [opened.pair[:2] for opened in opens(world.dispatch.tick(0.5))] == [(P0, D0)]


def test_it_does_not_wait_for_ever() -> None:
    world = World(nodes=(P0, D0))
    world.lose(D0, now=1.0)
    assert world.dispatch.tick(8.9) == []
    assert isinstance(error(world.dispatch.tick(9.0)), WorkerLost)


def test_the_deadline_ends_it_and_frees_the_nodes() -> None:
    actions = World().dispatch.tick(60.0)
    assert isinstance(error(actions), DeadlineExceeded)
    assert {a.peer for a in actions if isinstance(a, Stop)} == {P0, D0}


def test_a_client_that_left_frees_both_nodes_of_every_attempt() -> None:
    world = World(n=2)
    world.token(P0, 0, choice=0)
    world.token(P0, 0, choice=1)
    world.lose(D0)
    actions = world.dispatch.cancel()
    stops = {(a.peer, a.message.attempt) for a in actions if isinstance(a, Stop)}
    assert stops == {(P0, 1), (D1, 1), (P0, 2), (D1, 2)}
    assert actions[-1] == End(None)


def test_a_stop_string_ends_one_choice_on_the_decode_node_alone() -> None:
    world = World(n=2)
    world.token(D0, 0, choice=0)
    assert world.dispatch.stop(0.0, 0) == [ChoiceEnd(0, "stop"), Stop(D0, Cancel(ID, 0, 0))]
    assert world.token(D0, 1, choice=0) == []


def test_a_stop_string_cancels_the_attempt_when_it_was_the_last_choice() -> None:
    world = World(n=2)
    world.token(D0, 0, choice=0)
    world.dispatch.stop(0.0, 0)
    actions = world.dispatch.stop(0.0, 1)
    assert [a for a in actions if isinstance(a, Stop)] == [Stop(P0, Cancel(ID, 0)), Stop(D0, Cancel(ID, 0))]
    assert actions[-1] == End(None)


def test_a_choice_that_goes_on_in_its_own_attempt_is_cut_there() -> None:
    world = World(n=3)
    for choice in range(3):
        world.token(P0, 0, choice=choice)
    world.lose(D0)
    actions = world.dispatch.stop(0.0, 1)
    assert [a for a in actions if isinstance(a, Stop)] == [Stop(P0, Cancel(ID, 2)), Stop(D1, Cancel(ID, 2))]


def test_a_gap_that_stays_is_a_lost_token() -> None:
    world = World()
    world.token(D0, 2, now=1.0)
    assert opens(world.dispatch.tick(1.0 + GAP_S / 2)) == []
    assert len(opens(world.dispatch.tick(1.0 + GAP_S))) == 1


def test_what_was_held_back_ends_with_its_attempt() -> None:
    world = World()
    world.token(D0, 1)
    world.lose(D0)
    assert indexes(world.token(P0, 0, attempt=1)) == [0]


def test_what_is_held_back_is_bounded() -> None:
    world = World()
    actions = [action for index in range(1, MAX_HELD + 2) for action in world.token(D0, index)]
    assert len(opens(actions)) == 1


def test_a_sequence_that_a_node_gave_up_is_tried_again() -> None:
    (opened,) = opens(World().token(D0, 0, finish="abort"))
    assert opened.message.attempt == 1


def test_prompt_logprobs_are_not_asked_for_twice() -> None:
    world = World(prompt_logprobs=1)
    world.dispatch.prompt_read = True
    (opened,) = opens(world.lose(D0))
    assert opened.message.sampling.prompt_logprobs is None
