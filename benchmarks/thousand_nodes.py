"""Nodes that exist in virtual time only: an LRU of pages, a queue of prompts, places for sequences.

Their paces are those of an H100 with the shape of Qwen2.5-7B in bf16. One token here stands for ``SCALE``
tokens there, so that a page of 16 is a block of 512 of Mooncake's trace. Knows seconds and labels; knows no
router.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pagewire.layout import KVLayout
from pagewire.mailbox import Peer
from pagewire.messages import DECODE, PREFILL, Beat, Epoch, Hello, Load, NodeId, RequestId
from pagewire.rates import Rates

SCALE = 32
PAGE = 16
PAGES = 2_000  # of 512 tokens: 59 GB of KV
SEQS = 64
BATCH = 8192 // SCALE
LAYOUT = KVLayout(layers=28 * SCALE, kv_heads=4, head_dim=128, dtype="bfloat16", model="m")
PREFILLS = Rates(5.0, 0.02 * SCALE, 0.00075 * SCALE * SCALE, handoff_ms=5.0, handoff_mb_ms=0.1)
DECODES = Rates(5.0, 0.03 * SCALE, 0.00075 * SCALE * SCALE, write_step_ms=7.0, write_row_ms=0.03)


@dataclass(slots=True, eq=False)
class Job:
    """One request. ``labels`` are those of its full pages; ``router`` is the number of who placed it."""

    request: RequestId
    came: float
    tokens: list[int]
    answer: int  # tokens of the model, not scaled
    router: int
    labels: list[bytes] = field(default_factory=list)
    alone: bool = False  # the decode node reads it
    decode: Peer | None = None
    hit: int = 0
    first: float = 0.0
    cost_s: float = 0.0  # of the router's own time, for its placement


class VirtualNode:
    def __init__(self, name: str, role: str) -> None:
        self.peer, self.role = Peer(NodeId(name), Epoch("e")), role
        self.queue: deque[Job] = deque()  # the first is being read
        self.landed: deque[Job] = deque()
        self.writing = 0
        self.worked = 0.0  # seconds of reading
        self.sent = 0  # messages about pages
        self._pages: OrderedDict[bytes, None] = OrderedDict()
        rates = PREFILLS if role == PREFILL else DECODES
        names = Rates.__dataclass_fields__
        told = [n for n in names if n.startswith("read") or n.startswith("hand") == (role == PREFILL)]
        self._gauges = {name: float(getattr(rates, name)) for name in told}
        self._rates = rates

    @property
    def hello(self) -> Hello:
        address = f"tcp://{self.peer.node}:1" if self.role == DECODE else ""
        facts = (*self.peer, self.role, "0.1.0", 1, LAYOUT, address, "m", 1 << 20, PAGES, PAGE)
        return Hello(*facts, max_batch_tokens=BATCH, max_num_seqs=SEQS)

    @property
    def beat(self) -> Beat:
        queued = sum(len(job.tokens) for job in self.queue)
        load = Load(len(self.queue), self.writing, queued, PAGES, PAGES, gauges=self._gauges)
        return Beat(*self.peer, load)

    def read_s(self, job: Job) -> float:
        """How long reading takes from now on; what is found in the cache is noted."""
        hit = next((n for n, label in enumerate(job.labels) if label not in self._pages), len(job.labels))
        size = len(job.tokens)
        job.hit = min(hit * PAGE, (size - 1) // PAGE * PAGE)
        new, rates = size - job.hit, self._rates
        area = new * (job.hit + new / 2) / 1000
        steps = -(-new // BATCH)
        ms = rates.read_step_ms * steps + rates.read_token_ms * new + rates.read_context_ms * area
        self.worked += ms / 1000
        return ms / 1000

    def write_s(self, job: Job) -> float:
        rates = self._rates
        return job.answer * (rates.write_step_ms + rates.write_row_ms * self.writing) / 1000

    def holds(self, labels: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
        """These pages are here now, and the last to go. What came, and what went for it."""
        come, gone = [], []
        for label in labels:
            if label in self._pages:
                self._pages.move_to_end(label)
            else:
                self._pages[label] = None
                come.append(label)
        while len(self._pages) > PAGES:
            gone.append(self._pages.popitem(last=False)[0])
        return come, gone
