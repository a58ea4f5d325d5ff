"""Ten thousand malformed requests to real processes: none falls over, none says what it should not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from cluster import Cluster, completion, tiny_folder

from benchmarks.fuzz_http import attack, cases

pytestmark = pytest.mark.soak


@pytest.mark.filterwarnings("ignore")  # schemathesis' and hypothesis' own
def test_ten_thousand_malformed_requests(tmp_path: Path) -> None:
    model = str(tiny_folder(tmp_path / "tiny"))
    with Cluster(model, "--load-format", "dummy", "--kv-cache-memory", "64MiB") as cluster:
        before = {name: cluster.pid(name) for name in ("router", "prefill-0", "decode-0")}
        verdict = attack(cluster.url, cases(cluster.url, 10_000, seed=2), clients=8)
        assert not verdict.faults, "\n".join(verdict.faults[:20])
        assert {name: cluster.pid(name) for name in before} == before
        assert completion(cluster.url, prompt="x", max_tokens=2)["usage"]["completion_tokens"] == 2
        cluster.until_nothing_is_held(30)
