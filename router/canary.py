"""Whether requests come through: a small one of the router's own, over a real pair of nodes, when nobody
else's has lately.

Pure: ``(now, event) -> messages to send``, with no socket and no clock. A trial has two tokens, the second
of which the decode node writes, so that one which passes was reserved, sent, committed and adopted. Its
prompt is shorter than a page: it leaves nothing in a prefix cache, finds nothing there, and its KV has to go
over the wire each time. Handoffs of clients' requests that come through are proofs as well, so under load
next to nothing is spent. Knows nodes as the fleet does; knows no request but its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pagewire.mailbox import Peer
from pagewire.messages import (
    DECODE,
    PREFILL,
    Cancel,
    DecodeTarget,
    Failed,
    PrefillRequest,
    RequestId,
    TokenItem,
)
from pagewire.sampling import SamplingParams
from router.fleet import Fleet, Node
from router.reach import Link

SPACING_S = 1.0  # between the beginnings of two trials
NEVER = float("-inf")

_SAMPLING = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)


class Send(NamedTuple):
    peer: Peer
    message: PrefillRequest | Cancel


class _Failure(NamedTuple):
    at: float
    why: str


@dataclass(slots=True)
class _Trial:
    request: RequestId
    link: Link
    since: float


class Canary:
    """``interval_s`` without a proof is when a trial begins; what was proved is good for three times as long.
    0: nothing is tried and nothing is doubted. ``new_id`` gives ids that nobody else has.
    """

    def __init__(self, fleet: Fleet, interval_s: float, new_id: Callable[[], str]) -> None:
        self._fleet = fleet
        self._interval = interval_s
        self._new_id = new_id
        self._trials: dict[RequestId, _Trial] = {}
        self._asked_at = NEVER
        self._proved_at = NEVER
        self._proofs: dict[Peer, float] = {}  # when a node last took part in one
        self._tried: dict[Peer | Link, float] = {}  # when a node or pair was last tried or proved
        self._failures: dict[Link, _Failure] = {}
        self._there: set[Peer] = set()  # whose memories were kept when others' were last dropped

    # --- questions ------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return bool(self._trials)

    def mine(self, request: RequestId) -> bool:
        return request in self._trials

    def age(self, now: float) -> float | None:
        """Seconds since the last proof."""
        return None if self._proved_at == NEVER else now - self._proved_at

    def doubt(self, now: float) -> str:
        """Why nobody should count on being served, or ""."""
        if not self._interval:
            return ""
        prefills, decodes = self._ways()
        if any(self._good(now, prefills, decode) for decode in decodes):
            return ""
        ways = {*prefills}, {*decodes}
        failures = [
            failure
            for (by, to), failure in self._failures.items()
            if to in ways[1] and (by in ways[0] if prefills else by == to)
        ]
        if failures:
            return f"a request of the router's own did not come through: {max(failures).why}"
        if (age := self.age(now)) is None:
            return "no request has come through yet"
        return f"no request has come through for {age:.0f} s"

    # --- events ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Send]:
        """Time has passed, or nodes have come or gone."""
        if not self._interval:
            return []
        out: list[Send] = []
        for trial in list(self._trials.values()):
            if any(self._fleet.get(peer) is None for peer in trial.link):
                out += self._end(trial)
            elif now - trial.since >= 2 * self._interval:
                out += self._fail(now, trial, "no answer")
        if now - self._asked_at >= SPACING_S and (link := self._due(now)) is not None:
            out.append(self._ask(now, link))
        return out

    def proved(self, now: float, link: Link) -> None:
        """A request was handed over on ``link``: anybody's."""
        self._proved_at = now
        self._failures.pop(link, None)
        self._mark(now, link)
        for peer in link:
            self._proofs[peer] = now

    def token(self, now: float, peer: Peer, item: TokenItem) -> list[Send]:
        trial = self._trials[item.request]
        if item.finish == "abort":
            return self._fail(now, trial, "a node gave it up")
        if peer == trial.link[1] and item.index == 1:
            del self._trials[item.request]
            self.proved(now, trial.link)
        return []

    def failed(self, now: float, failed: Failed) -> list[Send]:
        return self._fail(now, self._trials[failed.request], failed.code)

    def lost(self, peer: Peer) -> list[Send]:
        """``peer`` is gone, or has dropped all it had."""
        return [
            send for trial in list(self._trials.values()) if peer in trial.link for send in self._end(trial)
        ]

    # --- decisions ------------------------------------------------------------------------------------------

    def _ways(self) -> tuple[list[Peer], list[Peer]]:
        """Prefill and decode nodes: a request can go now from each of these to each of those. Without prefill
        nodes, decode nodes do all of it. As many pairs as there may be are never written down."""
        prefills = [node.peer for node in self._fleet.of(PREFILL)]
        decodes = [node.peer for node in self._fleet.of(DECODE)]
        return prefills, decodes if prefills or self._fleet.able else []

    def _good(self, now: float, prefills: list[Peer], decode: Peer) -> bool:
        """It took over from somebody lately, and some way to it has not failed since."""
        proof = self._proofs.get(decode, NEVER)
        if now - proof >= 3 * self._interval:
            return False
        failures = (self._failures.get((prefill, decode)) for prefill in prefills or [decode])
        return any(failure is None or failure.at < proof for failure in failures)

    def _due(self, now: float) -> Link | None:
        """The way to try now: by the node whose last try is the oldest, then by the pair whose is."""
        busy = {peer for trial in self._trials.values() for peer in trial.link}
        ways = self._ways()
        prefills, decodes = ([peer for peer in each if peer not in busy] for each in ways)
        if not decodes or (ways[0] and not prefills):
            return None

        def last(what: Peer | Link) -> float:
            return self._tried.get(what, NEVER)

        stalest = min((*prefills[:1], *decodes, *prefills[1:]), key=last)
        quiet = now - self._proved_at >= self._interval
        if not quiet and now - last(stalest) < 3 * self._interval:
            return None
        if stalest in prefills:
            with_it = [(stalest, decode) for decode in decodes]
        else:
            with_it = [(prefill, stalest) for prefill in prefills or [stalest]]
        return min(with_it, key=lambda link: (last(link), max(map(last, link))))

    def _ask(self, now: float, link: Link) -> Send:
        prefill, decode = (self._node(peer) for peer in link)
        request = RequestId(self._new_id())
        self._trials[request] = _Trial(request, link, now)
        self._asked_at = now
        self._forget()
        self._mark(now, link)
        size = min(prefill.hello.page_size, decode.hello.page_size)
        prompt = list(range(1, max(1, size // 2) + 1))
        message = PrefillRequest(
            request=request,
            attempt=0,
            choices=[0],
            tokens=prompt,
            num_prompt=len(prompt),
            sampling=_SAMPLING,
            seed=0,
            cache_salt=request,
            deadline_ms=max(1, int(2000 * self._interval)),
            decode=DecodeTarget(decode.hello.node, decode.hello.epoch, decode.hello.address),
        )
        return Send(prefill.peer, message)

    def _node(self, peer: Peer) -> Node:
        node = self._fleet.get(peer)
        assert node is not None
        return node

    def _fail(self, now: float, trial: _Trial, why: str) -> list[Send]:
        self._failures[trial.link] = _Failure(now, why)
        return self._end(trial)

    def _end(self, trial: _Trial) -> list[Send]:
        del self._trials[trial.request]
        return [Send(peer, Cancel(trial.request, 0)) for peer in dict.fromkeys(trial.link)]

    def _mark(self, now: float, link: Link) -> None:
        for what in (link, *link):
            self._tried[what] = now

    def _forget(self) -> None:
        """Nodes that are gone, in that life."""
        there = {node.peer for node in self._fleet.nodes.values()}
        if there == self._there:
            return
        self._there = there
        self._proofs = {peer: at for peer, at in self._proofs.items() if peer in there}
        self._tried = {what: at for what, at in self._tried.items() if what in there or {*what} <= there}
        self._failures = {link: why for link, why in self._failures.items() if {*link} <= there}
