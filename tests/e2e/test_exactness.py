"""The same tokens in one process, over shared memory, over TCP, in small pieces, preempted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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
TOKEN_BYTES = 3 * 2 * 2 * 16 * 4

VARIANTS = {
    "shm, pages of 16": ["--transport", "shm"],
    "tcp, pages of 64, chunks of 100": [
        "--transport", "tcp", "--page-size", "64", "--max-num-batched-tokens", "100",
    ],
    "shm, pools of 2,640 tokens: preemption": [
        "--kv-cache-memory", str(165 * 16 * TOKEN_BYTES), "--max-num-batched-tokens", "256",
    ],
}  # fmt: skip


def served(url: str, work: list[Request], concurrency: int = 16) -> Answers:
    def ask(request: Request) -> list[tuple[list[int], str | None]]:
        tokens, params = request
        reply = completion(url, prompt=tokens, return_token_ids=True, **params)
        return [(choice["token_ids"], choice["finish_reason"]) for choice in reply["choices"]]

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(ask, work))


def offline(work: list[Request], **options: Any) -> Answers:
    llm = LLM(**options)
    outputs = llm.generate([tokens for tokens, _ in work], [sampling(p) for _, p in work], use_tqdm=False)
    assert llm.engine.accounts().leased == 0
    return [[(choice.token_ids, choice.finish_reason) for choice in output.outputs] for output in outputs]


@pytest.fixture(scope="module")
def work(tiny: Path) -> list[Request]:
    return requests(load_tokenizer(resolve("demo")).vocab_size)


@pytest.fixture(scope="module")
def colocated(tiny: Path, work: list[Request]) -> Answers:
    return offline(work, model=str(tiny), load_format="dummy")


def test_colocated_batching_changes_nothing(tiny: Path, work: list[Request], colocated: Answers) -> None:
    alone = offline(
        work, model=str(tiny), load_format="dummy", max_num_seqs=1, enable_prefix_caching=False, page_size=64
    )
    assert alone == colocated


@pytest.mark.parametrize("variant", VARIANTS)
def test_disaggregated_equals_colocated(
    tiny: Path, work: list[Request], colocated: Answers, variant: str
) -> None:
    with Cluster(str(tiny), "--load-format", "dummy", *VARIANTS[variant]) as cluster:
        answers = served(cluster.url, work)
        cluster.until_nothing_is_held()
        gauges = cluster.gauges()
    assert answers == colocated
    assert gauges["prefill-0"]["transfer_done"] == len(work)
    if "preemption" in variant:
        assert gauges["decode-0"]["preemptions"] > 0
