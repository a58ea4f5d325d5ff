"""What pagewire's processes say to each other: one class an arrow.

Plain facts in frozen dataclasses, no behaviour. ``pagewire.codec`` turns them into bytes and back, checking
the exact field list and each field's type, so a class here is also its wire schema. KV bytes do not travel
here: see ``kv_transfer.wire``.

    router  -> prefill : PrefillRequest, Cancel          router -> decode : Cancel
    prefill -> router  : Hello, Beat, Tokens, Failed     decode -> router : Hello, Beat, Tokens, Failed
    router  -> both    : Welcome, Beat, PagesWanted      both -> router    : PagesChanged
    router  -> both    : TakeRole
    prefill -> decode  : Handoff, inside kv_transfer's RESERVE; FirstTokens, inside its COMMIT
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

from pagewire.layout import KVLayout
from pagewire.sampling import SamplingParams

RequestId = NewType("RequestId", str)  # made by the router, never by a client; 32 hex digits
NodeId = NewType("NodeId", str)  # stable name of a node, such as "decode-0"
Epoch = NewType("Epoch", str)  # one life of a process; a restart makes a new one

PREFILL = "prefill"
DECODE = "decode"
ROUTER = "router"
WORKER = "worker"  # a node that can take both roles, as far as keys are concerned


# --- membership and health ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """A node introduces itself, after each (re)connection. The epoch tells a restart from a repeat, and
    ``session``, which rises within it, a node that has dropped everything from one that asks again. A step
    computes up to ``max_batch_tokens`` for up to ``max_num_seqs`` sequences. ``role`` is what it offers now,
    one of the ``roles`` that it can take."""

    node: NodeId
    epoch: Epoch
    role: str
    version: str
    pid: int
    layout: KVLayout
    address: str  # where the handoff reaches a decode node; empty for a prefill node
    served_model: str
    max_model_len: int
    num_pages: int
    page_size: int
    session: int = 1
    max_batch_tokens: int = 512
    max_num_seqs: int = 64
    prefix_caching: bool = True  # whether pages are kept for prompts that begin alike
    roles: list[str] = field(default_factory=list)  # empty: its role alone, for good
    topology: str = ""  # where it is (pagewire.topology)


@dataclass(frozen=True, slots=True)
class Welcome:
    """The router took the node in, or says why not (``refused``). ``session`` is that of the Hello that it
    answers; 0: it does not know who speaks, and asks for a Hello."""

    router: NodeId
    epoch: Epoch
    refused: str = ""
    session: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a node is, in its own counts. ``pages_free`` includes cached pages that can be evicted."""

    waiting: int = 0
    running: int = 0
    queued_tokens: int = 0
    pages_free: int = 0
    pages_total: int = 0
    transfers: int = 0
    steps: int = 0
    gauges: dict[str, float] = field(default_factory=dict)  # further gauges and counters for /metrics


@dataclass(frozen=True, slots=True)
class Beat:
    """Heartbeat, both ways. A router that does not know the epoch answers with a Welcome to ask for Hello.

    ``role`` is what the node offers now ("": as in its Hello). One that is ``draining`` wants no new work: it
    ends what it has, and goes.
    """

    node: NodeId
    epoch: Epoch
    load: Load = field(default_factory=Load)
    role: str = ""
    draining: bool = False


@dataclass(frozen=True, slots=True)
class TakeRole:
    """From now on the node offers this one of its roles. What it has in hand in another one it goes on with;
    its next heartbeats say so to all routers."""

    role: str


# --- what prefix caches hold --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PagesWanted:
    """From now on the router wants to hear which pages the node's prefix cache holds, from an empty cache on.
    The answers bear the number ``stream``; an earlier one is over."""

    stream: int


@dataclass(frozen=True, slots=True)
class PagesChanged:
    """Pages that can be found in the node's prefix cache since the last message of this stream, and those
    that no longer can, as labels (see ``pagewire.page_chain``). The first one, of ``sequence`` 0, begins from
    nothing; where a number is missing, the router asks for a new stream."""

    node: NodeId
    epoch: Epoch
    stream: int
    sequence: int
    added: bytes
    evicted: bytes


# --- requests -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DecodeTarget:
    """The decode node that placement chose, in the life that placement saw."""

    node: NodeId
    epoch: Epoch
    address: str


@dataclass(frozen=True, slots=True)
class PrefillRequest:
    """One attempt at one or more choices of a request.

    ``tokens`` is the prompt and, after a lost worker, the tokens that this choice had already emitted; the
    first ``num_prompt`` of them are the client's. A retry after tokens were emitted carries exactly one
    choice. ``deadline_ms`` is what is left, so that clocks need not agree. The lower ``priority``, the
    earlier its turn.
    """

    request: RequestId
    attempt: int
    choices: list[int]
    tokens: list[int]
    num_prompt: int
    sampling: SamplingParams
    seed: int
    cache_salt: str
    deadline_ms: int
    decode: DecodeTarget
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop this attempt and free what it holds. Idempotent; unknown ids are ignored.

    ``choice`` is the only one to stop, told to the decode node alone; None: all of the attempt.
    """

    request: RequestId
    attempt: int
    choice: int | None = None


@dataclass(slots=True)  # never changed, and not frozen: that takes nine times as long to make, for each token
class TokenItem:
    """One token of one choice. ``index`` counts the choice's output tokens from 0, over all attempts.

    ``logprob`` and ``top`` are present when asked for. ``finish`` is "" while the choice goes on, else
    "stop", "length" or "abort"; ``stop_token`` is the stop or end token that ended it (it is also ``token``),
    or -1.
    """

    request: RequestId
    attempt: int
    choice: int
    index: int
    token: int
    logprob: float | None = None
    top: list[tuple[int, float]] = field(default_factory=list)
    finish: str = ""
    stop_token: int = -1


@dataclass(frozen=True, slots=True)
class Spans:
    """What one node did for one attempt: milliseconds by name, and counts by name (see pagewire.timeline)."""

    request: RequestId
    attempt: int
    node: NodeId
    role: str
    pid: int
    ms: dict[str, float]
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Log-probabilities of the prompt's tokens from position 1 on: chosen and the most likely ones."""

    request: RequestId
    attempt: int
    logprobs: list[float]
    top: list[list[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Tokens:
    """All that one step of one node has for one router."""

    node: NodeId
    epoch: Epoch
    items: list[TokenItem]
    spans: list[Spans] = field(default_factory=list)
    prompt_logprobs: list[PromptLogprobs] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended here without finishing. ``retryable``: another node or moment may do better."""

    node: NodeId
    epoch: Epoch
    request: RequestId
    attempt: int
    code: str
    message: str
    retryable: bool


# --- carried opaquely by the handoff ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Handoff:
    """What a decode node must know to go on with a request, and for whom; rides in RESERVE."""

    router: NodeId
    request: PrefillRequest  # with what is left of the deadline


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """What the prefill node sampled, one item a live choice; rides in COMMIT."""

    items: list[TokenItem]
