"""One request's way over the nodes: which attempt carries which choice, and which tokens count.

Pure: ``(now, event) -> actions``, with no socket, clock or text. One ``Dispatch`` a request; each public
method is an event and returns what is to be done, in order. Rules:

- A token counts if it comes from a node of its choice's current attempt and is the next by index. Earlier
  ones are repeats and are dropped; later ones are held back until the gap closes (decode may overtake
  prefill).
- If a node that the attempt still needs is lost or fails, the attempt is cancelled on the others and its
  unfinished choices go on in new attempts, which carry the tokens already emitted. Attempt numbers are
  never used twice. Nodes that failed go last from then on. Where two did not reach each other, that pair
  does, and so does the decode node: the prefill node lives, since it said so. Where no prefill node comes,
  or none reaches the decode node, that one does all of it.
- Each choice ends once (``ChoiceEnd``), the request ends once and last (``End``), and nothing follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pagewire.errors import DeadlineExceeded, PagewireError, RequestFailed, Unavailable, WorkerLost
from pagewire.mailbox import Peer
from pagewire.messages import Cancel, DecodeTarget, Failed, PrefillRequest, TokenItem
from router.actions import Action, ChoiceEnd, Closed, End, Handed, Job, Open, Stop
from router.failures import cut_off, error_of
from router.placement import Pair, Query, Tried
from router.reach import Link

MAX_RETRIES = 3  # a choice
MAX_HELD = 64  # tokens of a choice that came before their turn
GAP_S = 2.0  # how long a missing token may stay missing
ALONE_S = 1.0  # that a request waits for a prefill node before a decode node reads its prompt
BACKOFF_S = 0.1  # before a node that failed is asked again; four times as long with each retry
ENOUGH = 2  # pairs that do not reach each other: then a decode node reads the prompt


Choose = Callable[[Query, Tried], Pair | None]


@dataclass(slots=True, eq=False)
class _Attempt:
    number: int
    pair: Pair
    choices: set[int]  # that are still to end in this attempt
    handed: bool = False
    cut: bool = False  # the router ended a choice that the nodes believe to be running


@dataclass(slots=True, eq=False)
class _Choice:
    emitted: list[int] = field(default_factory=list)
    attempt: _Attempt | None = None  # None while it waits for nodes, and when it is done
    retries: int = 0
    held: dict[int, TokenItem] = field(default_factory=dict)
    held_since: float = 0.0
    done: bool = False


class Dispatch:
    """The state of one request. ``choose`` is a pure function of the fleet as it is at that time."""

    def __init__(self, job: Job, choose: Choose) -> None:
        self.job = job
        self.done = False
        self.waited = 0.0  # seconds without nodes, all told
        self.pairs: dict[int, Pair] = {}  # every attempt ever made, by number
        self.prompt_read = False  # prompt log-probabilities have arrived: later attempts need not repeat them
        self._choose = choose
        self._choices = [_Choice() for _ in range(job.sampling.n)]
        self._live: dict[int, _Attempt] = {}
        self._tried: set[Peer] = set()
        self._cut: set[Link] = set()  # pairs that were tried and did not reach each other
        self._retry_at = 0.0
        self._waiting_since: float | None = None
        self._cause: PagewireError = Unavailable("no prefill and decode node can take the request now")
        self._out: list[Action] = []

    @property
    def predicted_ttft_ms(self) -> float | None:
        """Of the only attempt; None after a retry."""
        return self.pairs[0].why.ttft_ms if len(self.pairs) == 1 else None

    # --- events ---------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        self._place(now)
        return self._take()

    def token(self, now: float, peer: Peer, item: TokenItem) -> list[Action]:
        attempt = self._live.get(item.attempt)
        if attempt is None or peer not in attempt.pair[:2] or item.choice not in attempt.choices:
            return []
        if not attempt.handed and peer == attempt.pair.decode:
            attempt.handed = True
            self._out.append(Handed(attempt.number))
        choice = self._choices[item.choice]
        if item.index > len(choice.emitted):
            self._hold(now, attempt, choice, item)
        elif item.index == len(choice.emitted):
            self._accept(now, attempt, choice, item)
        return self._take()

    def failed(self, now: float, peer: Peer, failed: Failed) -> list[Action]:
        attempt = self._live.get(failed.attempt)
        if attempt is None or not _needs(attempt, peer):
            return []
        if not failed.retryable:
            self._end(error_of(failed))
            return self._take()
        if cut_off(failed):
            self._cut.add(attempt.pair[:2])
            self._tried.add(attempt.pair.decode)
        else:
            self._tried.update(attempt.pair[:2])
        self._retry(now, attempt, error_of(failed), back_off=True)
        return self._take()

    def lost(self, now: float, peer: Peer) -> list[Action]:
        """``peer`` is dead, in this life at least."""
        cause = WorkerLost(f"node {peer.node} was lost")
        for attempt in list(self._live.values()):
            if attempt.number in self._live and _needs(attempt, peer):
                self._retry(now, attempt, cause, gone=peer)
        return self._take()

    def stop(self, now: float, number: int) -> list[Action]:
        """The choice is over for the client: a stop string was found in its text."""
        attempt = self._choices[number].attempt
        if attempt is not None:
            attempt.cut = True
            self._finish(attempt, number, "stop", -1)
            if attempt.choices:
                self._out.append(Stop(attempt.pair.decode, Cancel(self.job.request, attempt.number, number)))
        return self._take()

    def cancel(self, error: PagewireError | None = None) -> list[Action]:
        """The client has gone, or ``error`` ends the request from our side."""
        if not self.done:
            self._end(error, reason="abort" if error is None else "error")
        return self._take()

    def tick(self, now: float) -> list[Action]:
        """Time has passed or a node has joined."""
        if self.done:
            return []
        if now >= self.job.deadline:
            self._end(DeadlineExceeded("the request took longer than it was given"))
            return self._take()
        for choice in self._choices:
            if choice.attempt is not None and choice.held and now - choice.held_since >= GAP_S:
                self._retry(now, choice.attempt, RequestFailed("a token was lost between our processes"))
        self._place(now)
        if self._waiting_since is not None and now - self._waiting_since >= self.job.recovery_s:
            self._end(self._cause)
        return self._take()

    # --- decisions ------------------------------------------------------------------------------------------

    def _take(self) -> list[Action]:
        out, self._out = self._out, []
        return out

    def _place(self, now: float) -> None:
        """Give nodes to each choice that has none: those with no token yet together, others one by one."""
        waiting = [c for c, choice in enumerate(self._choices) if not choice.done and choice.attempt is None]
        if self.done or not waiting:
            return
        fresh = [c for c in waiting if not self._choices[c].emitted]
        groups = ([fresh] if fresh else []) + [[c] for c in waiting if self._choices[c].emitted]
        for group in groups:
            query, tried = self._query(group), frozenset[Peer | Link](self._tried | self._cut)
            pair = self._choose(query, tried)
            if pair is None and self._waiting_since is not None and now - self._waiting_since >= ALONE_S:
                pair = self._choose(query._replace(alone=True), tried)
            if pair is not None and len(self._cut) >= ENOUGH:
                pair = pair.without_prefill()
            if pair is None or (now < self._retry_at and not tried.isdisjoint((*pair[:2], pair[:2]))):
                if self._waiting_since is None:
                    self._waiting_since = now
                return
            self._open(now, group, pair, query)
        if self._waiting_since is not None:
            self.waited += now - self._waiting_since
            self._waiting_since = None

    def _query(self, group: list[int]) -> Query:
        emitted = self._choices[group[0]].emitted
        assert self.job.sampling.max_tokens is not None
        reserve = len(self.job.tokens) + len(group) * self.job.sampling.max_tokens
        tokens, job = self.job.tokens + emitted, self.job
        scored = job.sampling.prompt_logprobs is not None and not self.prompt_read
        return Query(tokens, reserve, job.cache_salt, bool(self._cut), job.request, cached=not scored)

    def _open(self, now: float, group: list[int], pair: Pair, query: Query) -> None:
        attempt = _Attempt(len(self.pairs), pair, set(group))
        self.pairs[attempt.number] = pair
        self._live[attempt.number] = attempt
        for c in group:
            self._choices[c].attempt = attempt
        sampling, job = self.job.sampling, self.job
        if sampling.prompt_logprobs is not None and self.prompt_read:
            sampling = replace(sampling, prompt_logprobs=None)
        message = PrefillRequest(
            request=job.request,
            attempt=attempt.number,
            choices=group,
            tokens=list(query.tokens),
            num_prompt=len(job.tokens),
            sampling=sampling,
            seed=job.seed,
            cache_salt=job.cache_salt,
            deadline_ms=max(1, int((job.deadline - now) * 1000)),
            decode=DecodeTarget(pair.decode.node, pair.decode.epoch, pair.address),
            priority=job.priority,
        )
        self._out.append(Open(pair, query, message))

    def _hold(self, now: float, attempt: _Attempt, choice: _Choice, item: TokenItem) -> None:
        if not choice.held:
            choice.held_since = now
        choice.held[item.index] = item
        if len(choice.held) > MAX_HELD:
            self._retry(now, attempt, RequestFailed("a token was lost between our processes"))

    def _accept(self, now: float, attempt: _Attempt, choice: _Choice, item: TokenItem | None) -> None:
        """Emit ``item``, and those held back that follow it without a gap."""
        while item is not None:
            if item.finish == "abort":
                self._retry(now, attempt, RequestFailed("a node gave the request up"), back_off=True)
                return
            choice.emitted.append(item.token)
            self._out.append(item)
            if item.finish:
                self._finish(attempt, item.choice, item.finish, item.stop_token)
                return
            item = choice.held.pop(len(choice.emitted), None)
            choice.held_since = now

    def _finish(self, attempt: _Attempt, number: int, reason: str, stop_token: int) -> None:
        choice = self._choices[number]
        choice.done, choice.attempt = True, None
        choice.held.clear()
        attempt.choices.discard(number)
        self._out.append(ChoiceEnd(number, reason, stop_token))
        if not attempt.choices:
            self._close(attempt, tell=attempt.pair[:2] if attempt.cut else ())
        if all(c.done for c in self._choices):
            self._end(None)

    def _retry(
        self,
        now: float,
        attempt: _Attempt,
        cause: PagewireError,
        *,
        gone: Peer | None = None,
        back_off: bool = False,
    ) -> None:
        self._cause = cause
        self._close(attempt, tell=tuple(peer for peer in attempt.pair[:2] if peer != gone))
        for c in sorted(attempt.choices):
            choice = self._choices[c]
            choice.attempt = None
            choice.held.clear()
            choice.retries += 1
        worst = max(self._choices[c].retries for c in attempt.choices)
        if worst > MAX_RETRIES:
            self._end(cause)
            return
        if back_off:
            self._retry_at = now + BACKOFF_S * 4 ** (worst - 1)
        self._place(now)

    def _close(self, attempt: _Attempt, tell: tuple[Peer, ...]) -> None:
        del self._live[attempt.number]
        for peer in dict.fromkeys(tell):
            self._out.append(Stop(peer, Cancel(self.job.request, attempt.number)))
        self._out.append(Closed(attempt.number))

    def _end(self, error: PagewireError | None, reason: str = "error") -> None:
        self.done = True
        for attempt in list(self._live.values()):
            self._close(attempt, tell=attempt.pair[:2])
        for c, choice in enumerate(self._choices):
            if not choice.done:
                choice.done, choice.attempt = True, None
                self._out.append(ChoiceEnd(c, reason))
        self._out.append(End(error))


def _needs(attempt: _Attempt, peer: Peer) -> bool:
    """True if ``attempt`` cannot go on without ``peer``: prefill is not needed once decode took over."""
    return peer == attempt.pair.decode or (peer == attempt.pair.prefill and not attempt.handed)
