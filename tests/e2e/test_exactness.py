"""The same tokens in one process, over shared memory, over TCP, in small pieces, preempted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, completion
from prompts import Request, requests, sampling

from pagewire import LLM
from pagewire.hub import resolve
from pagewire.text.tokenizer import load_tokenizer

pytestmark = pytest.mark.e2e

Answers = list[list[tuple[list[int], str | None]]]
VARIANTS = {
    "shm, pages of 16": ["--transport", "shm"],
    "tcp, pages of 64, chunks of 100": [
        "--transport", "tcp", "--page-size", "64", "--max-num-batched-tokens", "100",
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """How to run it, and what one token's KV takes."""

    name: str
    load_format: str
    token_bytes: int

    @property
    def flags(self) -> list[str]:
        return [self.name, "--load-format", self.load_format]


@pytest.fixture(scope="module", params=["tiny", pytest.param("demo", marks=pytest.mark.soak)])
def model(request: pytest.FixtureRequest, tiny: Path) -> Model:
    return (
        Model("demo", "auto", 30 * 2 * 3 * 64 * 4)
        if request.param == "demo"
        else Model(str(tiny), "dummy", 768)
    )


def served(url: str, work: list[Request], concurrency: int = 16) -> Answers:
    def ask(request: Request) -> list[tuple[list[int], str | None]]:
        tokens, params = request
        reply = completion(url, prompt=tokens, return_token_ids=True, **params)
        return [(choice["token_ids"], choice["finish_reason"]) for choice in reply["choices"]]

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(ask, work))


def offline(model: Model, work: list[Request], **options: Any) -> Answers:
    llm = LLM(model.name, load_format=model.load_format, **options)
    outputs = llm.generate([tokens for tokens, _ in work], [sampling(p) for _, p in work], use_tqdm=False)
    assert llm.engine.accounts().leased == 0
    return [[(choice.token_ids, choice.finish_reason) for choice in output.outputs] for output in outputs]


@pytest.fixture(scope="module")
def vocab() -> int:
    return load_tokenizer(resolve("demo")).vocab_size


@pytest.fixture(scope="module")
def work(vocab: int) -> list[Request]:
    return requests(vocab)


@pytest.fixture(scope="module")
def colocated(model: Model, work: list[Request]) -> Answers:
    return offline(model, work)


def test_colocated_batching_changes_nothing(model: Model, work: list[Request], colocated: Answers) -> None:
    assert offline(model, work, max_num_seqs=1, enable_prefix_caching=False, page_size=64) == colocated


@pytest.mark.parametrize("variant", VARIANTS)
def test_disaggregated_equals_colocated(
    model: Model, work: list[Request], colocated: Answers, variant: str
) -> None:
    with Cluster(*model.flags, *VARIANTS[variant], "--canary-interval", "0") as cluster:
        answers = served(cluster.url, work)
        cluster.until_nothing_is_held()
        gauges = cluster.gauges()
    assert answers == colocated
    assert gauges["prefill-0"]["transfer_done"] == len(work)


def test_preemption_changes_nothing(model: Model, vocab: int) -> None:
    """Pools of 1,280 tokens, and answers of 450, of which the router keeps room for 256: those that are let
    out together cannot end together."""
    work = requests(vocab, count=24, longest=150, new=450)
    expected = offline(model, work)
    with Cluster(*model.flags, "--kv-cache-memory", str(1280 * model.token_bytes)) as cluster:
        answers = served(cluster.url, work)
        cluster.until_nothing_is_held()
        preemptions = cluster.gauges()["decode-0"]["preemptions"]
    assert answers == expected
    assert preemptions > 0
