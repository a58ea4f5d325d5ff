"""How much the nodes can use now: what may leave the router's queue.

Pure. Requests go out only as far as prefill nodes have use for them, and decode nodes room: what is behind
waits in the router, where its turn can still change. Sums over each pool; which node takes what is
``router.placement``'s. Knows counts; knows no message and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pagewire.messages import DECODE, PREFILL, RequestId
from pagewire.rates import READING
from router.fleet import Fleet, Node

BATCHES = 2  # that a prefill node has to read or is reading: as far as it looks ahead itself
STEPS_A_S = 4.0  # of a prefill node, full ones: supposed until it says what it measured,
TOKENS_A_S = 2000.0  # but no less than this
LONG = 4  # a prompt counts for no more than this part of a batch: short ones need not wait for it
FRESH_S = 0.05  # that a sum over all nodes is good for: what they report of themselves is older
ANSWER = 256  # tokens for which room is kept, of an answer that may be longer


class Size(NamedTuple):
    """What a request takes: prompt tokens, choices, and tokens that each may add."""

    prompt: int
    choices: int
    answer: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.choices * min(self.answer, ANSWER)


class Capacity(NamedTuple):
    """Of all nodes together. ``prompts``: tokens that may be under way to their first token."""

    prompts: int
    longest: int  # what one prompt counts for at most
    tokens: int
    sequences: int
    nominal: float  # tokens a second that can be read, if nothing else is done


def capacity_of(fleet: Fleet) -> Capacity | None:
    """None if there is no decode node."""
    decodes = list(fleet.of(DECODE))
    if not decodes:
        return None
    readers = list(fleet.of(PREFILL)) or decodes
    batches = [max(1, node.hello.max_batch_tokens) for node in readers]
    return Capacity(
        prompts=BATCHES * sum(batches),
        longest=max(1, max(batches) // LONG),
        tokens=sum(node.hello.num_pages * node.hello.page_size for node in decodes),
        sequences=sum(node.hello.max_num_seqs for node in decodes),
        nominal=sum(map(_reads, readers)),
    )


class Capacities:
    """What ``fleet`` can do, summed up anew when somebody comes, goes or turns, and else every ``FRESH_S``:
    it is asked for with each message of a node while something waits."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._found: Capacity | None = None
        self._turns, self._until = -1, 0.0

    def at(self, now: float) -> Capacity | None:
        if self._turns != self._fleet.turns or now >= self._until:
            self._found = capacity_of(self._fleet)
            self._turns, self._until = self._fleet.turns, now + FRESH_S
        return self._found


def _reads(node: Node) -> float:
    """Tokens a second."""
    token_ms = node.measured.get(READING[1], 0.0)
    return 1000 / token_ms if token_ms > 0 else max(TOKENS_A_S, STEPS_A_S * node.hello.max_batch_tokens)


@dataclass(slots=True)
class _Held:
    counted: int  # 0 once the prompt is read
    size: Size


class Room:
    """What has been let out and is not over."""

    def __init__(self) -> None:
        self._held: dict[RequestId, _Held] = {}
        self.prompts = 0  # tokens under way to their first token, as they count
        self._tokens = 0
        self._decoding = 0

    def fits(self, capacity: Capacity, size: Size, prompts: float) -> bool:
        """True if the nodes have use for one more, and fewer than ``prompts`` tokens of prompts under way.
        Whoever has them to itself always fits."""
        if not self._held:
            return True
        return (
            self.prompts < min(prompts, capacity.prompts)
            and self._tokens + size.tokens <= capacity.tokens
            and self._decoding < capacity.sequences
        )

    def enter(self, request: RequestId, capacity: Capacity, size: Size) -> None:
        counted = min(size.prompt, capacity.longest)
        self._held[request] = _Held(counted, size)
        self.prompts += counted
        self._tokens += size.tokens

    def read(self, request: RequestId) -> None:
        """Its first token has come. Once is enough."""
        held = self._held.get(request)
        if held is not None and held.counted:
            self.prompts -= held.counted
            self._decoding += held.size.choices
            held.counted = 0

    def leave(self, request: RequestId) -> None:
        """It is over, or was never let out."""
        self.read(request)
        held = self._held.pop(request, None)
        if held is not None:
            self._decoding -= held.size.choices
            self._tokens -= held.size.tokens
