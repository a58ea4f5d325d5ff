"""The offline benchmark: it times the steps of a real engine, and leaves the engine as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import model_folder

from kernels import native_library as native
from pagewire.engine import bench as engine_bench
from pagewire.engine.build import build_engine
from pagewire.errors import ConfigError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(engine_bench, "ROUNDS", 1)
    monkeypatch.setattr(engine_bench, "_PROBE_S", 0.01)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_it_computes_what_it_says_and_frees_it(tmp_path: Path, quantization: str) -> None:
    if quantization == "int8" and not native.available():
        pytest.skip("no C++ compiler when this was installed")
    built = build_engine(
        model_folder(tmp_path), load_format="dummy", quantization=quantization, prefix_caching=False
    )
    said: list[str] = []
    report = engine_bench.measure(built, said.append)
    assert said == [
        "round 1 of 1: prompts",
        *(f"round 1 of 1: decoding {b}" for b in (1, 8, 32)),
        "the floor",
    ]
    accounts = built.engine.accounts()
    assert accounts.free == accounts.total
    assert not built.engine.busy
    prompts, readings, timed = 8 * 256 // 512, 1 + 4 + 16, 3 * 32
    assert prompts + readings + timed <= built.engine.steps <= prompts + readings + timed + 60
    for rates in (report.rates.median, report.floor):
        assert min(rates.prefill, *rates.decode.values()) > 0
        assert list(rates.decode) == [1, 8, 32]
    columns = {"none": (48, 80), "int8": (64, 96)}[quantization]  # whole groups
    products = (
        3 * ((6 + 2 + 2) * 16 * columns[0] + 48 * 6 * 16 + 2 * 80 * columns[0] + 48 * columns[1])
        + columns[0] * 96
    )
    assert report.weight_bytes == pytest.approx(
        products * {"none": 4, "int8": 1 + 2 / 32}[quantization], rel=1e-3
    )


@pytest.mark.parametrize("changes", [{"prefix_caching": True}, {"kv_cache_bytes": 1 << 20}], ids=str)
def test_what_would_spoil_it_is_a_config_error(tmp_path: Path, changes: dict[str, int]) -> None:
    given = {"prefix_caching": False} | changes
    built = build_engine(model_folder(tmp_path), load_format="dummy", **given)
    with pytest.raises(ConfigError, match=r"prefix cache|there is room for"):
        engine_bench.measure(built)


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    model_folder(tmp_path)
    command = [sys.executable, "-m", "pagewire.cli.main", "bench", "engine", str(tmp_path)]
    flags = ["--load-format", "dummy", "--threads", "1", "--json"]
    told = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    facts = json.loads(told.stdout)
    assert facts["threads"] == 1
    assert facts.keys() >= {"prefill", "decode", "floor", "low", "high"}
    assert facts["floor"].keys() == facts["low"].keys() == {"prefill", "decode"}
    assert list(facts["decode"]) == ["1", "8", "32"]
