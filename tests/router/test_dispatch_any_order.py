"""Whatever happens in whatever order, each choice's tokens are whole and each request ends once."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.mailbox import Peer
from pagewire.messages import Epoch, Failed, NodeId, RequestId, TokenItem
from pagewire.sampling import SamplingParams
from router.actions import Action, ChoiceEnd, Closed, End, Handed, Job, Open, Stop
from router.dispatch import Dispatch
from router.placement import Pair, Query, Tried

ID = RequestId("f" * 32)
NODES = [Peer(NodeId(name), Epoch("e")) for name in ("prefill-0", "prefill-1", "decode-0", "decode-1")]

small = st.integers(0, 5)
operations = st.one_of(
    st.tuples(st.just("token"), small, st.integers(0, 2), st.integers(0, 4), st.integers(0, 9)),
    st.tuples(st.just("next"), small, st.integers(0, 2), st.integers(0, 3), st.integers(0, 9)),
    st.tuples(st.just("failed"), small, st.integers(0, 9), st.just(0), st.just(0)),
    st.tuples(st.just("lose"), st.integers(0, 3), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("join"), st.integers(0, 3), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("stop"), st.integers(0, 2), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("tick"), st.integers(0, 30), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0), st.just(0), st.just(0)),
)


class Walk:
    """A dispatch among nodes that come and go, and all that its actions must hold to."""

    def __init__(self, n: int) -> None:
        self.n, self.now = n, 0.0
        self.alive = set(NODES)
        self.emitted: dict[int, list[int]] = defaultdict(list)
        self.ended: set[int] = set()
        self.open: dict[int, Open] = {}
        self.opened = 0
        self.over = 0
        job = Job(ID, [5, 6], SamplingParams(n=n, max_tokens=50), 1, "", deadline=500.0)
        self.dispatch = Dispatch(job, self.choose)
        self.check(self.dispatch.start(0.0))

    def choose(self, query: Query, tried: Tried) -> Pair | None:
        ranked = sorted(self.alive, key=lambda node: (node in tried, node))
        prefills = [node for node in ranked if node.node.startswith("prefill")]
        decodes = [node for node in ranked if node.node.startswith("decode")]
        pairs = sorted(((p, d) for p in prefills for d in decodes), key=lambda link: link in tried)
        if query.alone and decodes and (not pairs or pairs[0] in tried):
            return Pair(decodes[0], decodes[0], "x")
        return Pair(*pairs[0], "x") if pairs else None

    def check(self, actions: list[Action]) -> None:
        for action in actions:
            assert not self.over, "nothing follows the end"
            match action:
                case TokenItem(choice=choice, index=index, token=token):
                    assert choice not in self.ended
                    assert index == len(self.emitted[choice])
                    self.emitted[choice].append(token)
                case Open(pair, _, message):
                    assert message.attempt == self.opened
                    assert set(pair[:2]) <= self.alive
                    assert not self.ended & set(message.choices)
                    assert all(message.tokens == [5, 6, *self.emitted[c]] for c in message.choices)
                    assert len(message.choices) == 1 or not any(self.emitted[c] for c in message.choices)
                    self.opened += 1
                    self.open[message.attempt] = action
                case Closed(attempt):
                    del self.open[attempt]
                case ChoiceEnd(choice):
                    assert choice not in self.ended
                    self.ended.add(choice)
                case Handed(attempt):
                    assert attempt in self.open
                case Stop(peer, cancel):
                    assert cancel.attempt in self.open
                    assert peer in self.open[cancel.attempt].pair
                case End():
                    assert self.ended == set(range(self.n))
                    assert not self.open
                    self.over += 1

    def step(self, kind: str, a: int, b: int, c: int, d: int) -> None:
        event = self.dispatch
        sender = self.sender(a, d)
        if kind == "token" and sender:
            self.check(event.token(self.now, sender, self.item(a, b, c, d)))
        elif kind == "next" and sender:
            item = self.item(a, b, len(self.emitted[b]) + c // 3, d)
            self.check(event.token(self.now, sender, item))
        elif kind == "failed" and sender:
            code = "peer_lost" if b % 2 else "x"
            failed = Failed(sender.node, sender.epoch, ID, a, code, "", retryable=b > 0)
            self.check(event.failed(self.now, sender, failed))
        elif kind == "lose" and NODES[a] in self.alive:
            self.alive.remove(NODES[a])
            self.check(event.lost(self.now, NODES[a]))
        elif kind == "join":
            self.alive.add(NODES[a])
            self.check(event.tick(self.now))
        elif kind == "stop" and a < self.n:
            self.check(event.stop(self.now, a))
        elif kind == "tick":
            self.now += a / 10
            self.check(event.tick(self.now))
        elif kind == "cancel" and a == 0:
            self.check(event.cancel())

    def sender(self, attempt: int, number: int) -> Peer | None:
        """Mostly one of the attempt's nodes."""
        pair = self.dispatch.pairs.get(attempt)
        return NODES[number % 4] if pair is None or number == 9 else pair[number % 2]

    def item(self, attempt: int, choice: int, index: int, number: int) -> TokenItem:
        finish = {7: "stop", 8: "length", 6: "abort"}.get(number, "")
        return TokenItem(ID, attempt, choice % self.n, index, 100 + index, finish=finish)


@given(st.integers(1, 3), st.lists(operations, max_size=60))
@settings(deadline=None, max_examples=400)
def test_any_order_ends_once(n: int, steps: list[tuple[str, int, int, int, int]]) -> None:
    walk = Walk(n)
    for step in steps:
        walk.step(*step)
    walk.check(walk.dispatch.tick(1000.0))
    assert walk.over == 1
