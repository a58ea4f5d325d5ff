"""The GPU benchmark's harness, on a CPU: cases that are wrong, raise, hang or kill their process cost
themselves only, and the report names them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import checks, conductor, measuring, terminal, timing, tuning
from benchmarks.gpu.case import Case, World
from benchmarks.gpu.events import Writer
from benchmarks.gpu.report import MARK, Report, markdown
from benchmarks.gpu.rows import floor_us, rows
from kernels import tuned

ROOT = Path(__file__).parents[1]

HEAD = """
import os, signal, sys, time
import torch
from benchmarks.gpu.case import Case, Reading, Target, Tune, relative_error
from kernels import tuned

def case(shape, run=lambda: None, wrong=lambda: 0.0, **more):
    return Case(kernel="toy", shape=shape, runs=[run], wrong=wrong, tolerance=1e-2, nbytes=8, flops=8, **more)

def refuse():
    raise RuntimeError("needs a GPU")

def once(name, act):
    # Does it in the first process only.
    def run():
        mark = __file__ + name
        if not os.path.exists(mark):
            open(mark, "w").close()
            act()
    return run
"""


def section(folder: Path, name: str, body: str, head: str = HEAD) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"section_{name}.py").write_text(f"{head}\ndef cases(world):\n{body}")


def bench(folder: Path, *arguments: str, limit: float = 120) -> tuple[subprocess.CompletedProcess[str], Any]:
    out = folder / "out"
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--prove",
        "--out",
        str(out),
        "--sections",
        str(folder),
    ]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=limit)
    return done, json.loads((out / "results.json").read_text()) if (out / "results.json").exists() else None


def line(text: str, words: str) -> str:
    """The line of the last table that begins with ``words``."""
    table = text[text.index("NO TIME HERE MEANS ANYTHING") :]
    return next(each.strip() for each in table.splitlines() if each.strip().startswith(words))


def test_what_goes_wrong_costs_itself_only_and_is_named(tmp_path: Path) -> None:
    section(
        tmp_path,
        "bad",
        """
    yield case("good", peers={"slow": lambda: time.sleep(0.01), "cuda": refuse}, target=Target("peer", 0.9))
    yield case("is wrong", wrong=lambda: 0.5)
    yield case("leaves NaN", wrong=lambda: relative_error(torch.tensor([float("nan")]), torch.ones(1)))
    yield case("raises", run=refuse)
    yield case("leaves", run=lambda: os._exit(0))
    yield case("crashes", run=lambda: os.kill(os.getpid(), signal.SIGSEGV))
    yield case("hangs", run=lambda: time.sleep(1000))
    yield case("deadly peer", peers={"bomb": lambda: os._exit(3), "mild": lambda: None})
    yield Reading(kernel="toy", shape="two processes", read=lambda: {"TTST ms": 1.25}, at_most={"TTST ms": 1})
    yield case("last")
""",
    )
    section(tmp_path, "broken", "    yield no_such_name\n")
    section(tmp_path, "unreadable", "    yield (\n")
    section(tmp_path, "well", '    yield case("well")\n')
    done, results = bench(tmp_path, "--patience", "4")
    assert done.returncode == 1, done.stderr
    assert "WRONG by 5.0e-01" in line(done.stdout, "is wrong")
    assert "WRONG by NaN" in line(done.stdout, "leaves NaN")
    assert "FAILED RuntimeError: needs a GPU" in line(done.stdout, "raises")
    assert "left with status 0" in line(done.stdout, "leaves FAILED")
    assert "SIGSEGV" in line(done.stdout, "crashes")
    assert "hung" in line(done.stdout, "hangs")
    assert re.search(r"x slow .* met$", line(done.stdout, "good")), line(done.stdout, "good")
    assert "x mild" in line(done.stdout, "deadly peer")
    assert "host" in line(done.stdout, "toy, ")
    assert "TTST ms 1.25 (MISSED 1)" in line(done.stdout, "toy two processes")
    assert "FAILED" not in line(done.stdout, "last")
    assert "FAILED" not in line(done.stdout, "well")
    assert "NameError" in line(done.stdout, "building case 0")
    assert "SyntaxError" in line(done.stdout, "import")
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "cuda does not run: RuntimeError: needs a GPU" in page
    assert "bomb does not run: ended the process" in page
    bad = results["sections"][0]
    assert bad["finished"]
    assert not results["good"]
    assert "us" not in next(each for each in bad["results"] if each["shape"] == "is wrong")  # not timed
    assert (
        done.stdout.strip()
        .splitlines()[-1]
        .startswith("12 cases, 2 wrong, 6 failed; targets: 1 met, 1 missed")
    )


def test_all_well_is_status_0_and_a_missed_target_is_no_error(tmp_path: Path) -> None:
    section(
        tmp_path,
        "well",
        '    yield case("slow", run=lambda: time.sleep(0.001), target=Target("ceiling", 0.9))\n',
    )
    done, _ = bench(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "<90%" in line(done.stdout, "slow")


def test_a_section_that_overruns_is_ended_and_what_it_said_stands(tmp_path: Path) -> None:
    section(
        tmp_path, "a", '    yield case("first")\n    yield case("endless", run=lambda: time.sleep(1000))\n'
    )
    section(tmp_path, "b", '    yield case("other")\n', HEAD + "WEIGHT = 3\n")
    start = time.monotonic()
    done, results = bench(tmp_path, "--seconds", "40")
    assert time.monotonic() - start < 60
    assert done.returncode == 1
    assert "a: out of time at toy endless (check)" in done.stdout
    assert [each["shape"] for section in results["sections"] for each in section["results"]] == [
        "first",
        "other",
    ]
    assert "NOT FINISHED: a" in done.stdout


def test_tuning_keeps_the_best_that_is_right_and_survives_a_deadly_candidate(tmp_path: Path) -> None:
    section(
        tmp_path,
        "tuned",
        """
    def use():
        return tuned.config("toy", {"dim": 64}, {"tile": 1}, world.device)["tile"]
    def run():
        if use() == 4:
            raise RuntimeError("does not compile")
        time.sleep(0.002 / use())
    shape = Tune("toy", {"dim": 64}, [{"tile": n} for n in (2, 4, 8, 16)])
    yield case("one", run, wrong=lambda: 1.0 if use() == 16 else 0.0, tune=shape)
    yield case("same again", run, tune=shape)
    def bomb():
        if tuned.config("bomb", {}, {"tile": 1}, world.device)["tile"] == 2:
            os._exit(3)
    yield case("bomb", bomb, tune=Tune("bomb", {}, [{"tile": 2}]))
""",
    )
    done, results = bench(tmp_path, "--tune")
    assert done.returncode == 0, done.stdout
    [table] = [each for each in (tmp_path / "out").glob("*.json") if each.name != "results.json"]
    assert tuned.read(table) == {("toy", (("dim", 64),)): {"tile": 8}}
    [entry] = json.loads(table.read_text())["kernels"]["toy"]
    assert entry["us"] < entry["default_us"]
    [section_] = results["sections"]
    assert all("tuned" in each for each in section_["results"] if each["shape"] != "bomb")
    assert "tuning ended at toy bomb (tune {'tile': 2}): left with status 3" in done.stdout


def test_ended_from_outside_it_reports_what_it_knows(tmp_path: Path) -> None:
    section(tmp_path, "a", '    yield case("first")\n')
    section(tmp_path, "b", '    yield case("endless", run=lambda: time.sleep(1000))\n')
    command = [sys.executable, "-m", "benchmarks.gpu", "--prove", "--sections", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "a: toy first" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "FAILED" not in line(rest, "first")
    assert "ended from outside" in rest


def test_list_says_floors_without_memory(tmp_path: Path) -> None:
    section(
        tmp_path,
        "big",
        """
    x = torch.empty(world.pick(1 << 45, 1), device=world.device)
    yield Case(kernel="toy", shape="big", runs=[], wrong=lambda: 0.0, tolerance=0, nbytes=3_000_000, flops=1)
""",
    )
    section(tmp_path, "numbers", "    torch.zeros(1, device=world.device).item()\n    yield case('small')\n")
    done, _ = bench(tmp_path, "--list", "--given", "copy=3000")
    assert done.returncode == 0, done.stderr
    assert re.search(r"toy +big +3\.000 MB .* 1\.0 us \(copy\)", done.stdout), done.stdout
    assert "numbers (tiny shapes)" in done.stdout
    assert "small" in done.stdout


def test_a_machine_without_a_gpu_is_told_of_prove(tmp_path: Path) -> None:
    section(tmp_path, "a", '    yield case("first")\n')
    command = [sys.executable, "-m", "benchmarks.gpu", "--sections", str(tmp_path)]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no GPU here: --prove runs everything on a CPU" in done.stdout


def test_unknown_sections_are_refused_by_name(tmp_path: Path) -> None:
    section(tmp_path, "a", "    yield\n")
    done, _ = bench(tmp_path, "--only", "b")
    assert "no section b; there are: a" in done.stderr


# -- parts --------------------------------------------------------------------------------------------------


def result(shape: str, **more: Any) -> dict[str, Any]:
    bounds = {"nbytes": 3_000_000, "flops": 1_000, "moves": "copy", "rate": "bf16"}
    times = {"us": 2.0, "spread": 0.01, "how": "graph", "peers": {}, "refused": {}, "target": None}
    return (
        {"event": "result", "index": 0, "kernel": "k", "shape": shape, "ok": True, "error": 1e-3}
        | bounds
        | times
        | more
    )


def outcome(*results: dict[str, Any]) -> conductor.Outcome:
    about = {
        "device": "Some GPU",
        "torch": "2",
        "triton": "3",
        "cuda": "13",
        "python": "3.12",
        "table": "x.json",
    }
    ceilings = {"copy": 3000.0, "bf16": 500.0}
    return conductor.Outcome("s", about=about, ceilings=ceilings, results=list(results), finished=True)


def test_a_floor_is_the_larger_of_bytes_and_operations() -> None:
    ceilings = {"copy": 3000.0, "bf16": 500.0, "h2d": 50.0}
    assert floor_us(ceilings, 3_000_000, 1, "copy", "bf16") == (1.0, "copy")
    assert floor_us(ceilings, 3_000_000, 10**9, "copy", "bf16") == (2.0, "bf16")
    assert floor_us(ceilings, 3_000_000, 10**9, "h2d", "fp8") == (60.0, "h2d")
    assert floor_us({}, 1, 1, "copy", "bf16")[0] == 0


def test_rows_hold_times_against_ceiling_and_best_peer() -> None:
    peers = {"flash": {"us": 3.0, "ratio": 1.5}, "cudnn": {"us": 1.8, "ratio": 0.9}}
    want = {"of": "peer", "ratio": 0.95}
    [row] = rows(outcome(result("x", peers=peers, target=want)))
    assert (row.share, row.ratio, row.peer, row.met) == (0.5, 0.9, "cudnn", False)
    assert (row.rate, row.unit) == (1500.0, "GB/s")
    [row] = rows(outcome(result("x", target={"of": "ceiling", "ratio": 0.5})))
    assert row.met
    [row] = rows(outcome(result("x", target=want)))
    assert row.met is None  # no peer ran
    some = [result("1"), result("2", kernel="other", index=1), result("3", index=2)]
    assert [row.shape for row in rows(outcome(*some))] == ["1", "3", "2"]


@pytest.mark.parametrize("count", [3, 100, 140, 1000])
def test_the_table_fits_into_what_arrives(count: int) -> None:
    peers = {"sdpa flash": {"us": 3.0, "ratio": 1.5}}
    every = [
        result(f"heads 28/4 page {i}", index=i, peers=peers, kernel=f"kernel {i // 8}") for i in range(count)
    ]
    every[-1] = {
        "event": "failed",
        "index": count,
        "kernel": "k",
        "shape": "the bad one",
        "why": "because " * 60,
    }
    text = terminal.page(Report("kernels", "2030-01-01", outcomes=[outcome(*every)]))
    assert len(text) <= terminal.LIMIT
    assert f"{count} cases, 0 wrong, 1 failed" in text.splitlines()[-1]
    assert "the bad one" in text
    if count <= 140:
        assert all(f"heads 28/4 page {i} " in text for i in range(count - 1))
        assert text.count("1.50x") == text.count("50%") == count - 1


def test_the_page_keeps_what_stands_before_its_figures() -> None:
    report = Report("kernels", "2030-01-01", outcomes=[outcome(result("a|b"))])
    page = markdown(report, f"# Words\n\nfirst\n\n{MARK}\n\nold figures\n")
    assert page.startswith(f"# Words\n\nfirst\n\n{MARK}\n")
    assert "old figures" not in page
    assert "| k | a\\|b | 2.0 |" in page


def test_everything_that_will_be_timed_is_compiled_ahead_once(tmp_path: Path) -> None:
    section(
        tmp_path,
        "a",
        """
    def mark(what):
        with open(__file__ + ".ran", "a") as file:
            file.write(what + "\\n")
    for i in range(3):
        def run(i=i):
            mark(f"{i} {tuned.config('toy', {}, {'tile': 1}, world.device)['tile']}")
        tune = Tune("toy", {}, [{"tile": 2}, {"tile": 3}])
        yield case(f"{i}", run, peers={"peer": lambda i=i: mark(f"{i} peer"), "no": refuse}, tune=tune)
""",
    )
    section(tmp_path, "b", '    raise AssertionError("not beside others")\n', "ALONE = True\n")
    plan = conductor.Plan(tmp_path, prove=True, tune=True)
    _, said = conductor.compile_ahead(conductor.sections(tmp_path), plan, [], 60)
    ran = sorted((tmp_path / "section_a.py.ran").read_text().splitlines())
    assert ran == sorted(f"{i} {what}" for i in range(3) for what in ("1", "2", "3", "peer"))
    assert said.startswith("compiled ahead: 12 launches in")
    assert "3 failed" in said


def test_constants_of_a_section_are_read_without_importing_it(tmp_path: Path) -> None:
    (tmp_path / "section_a.py").write_text("WEIGHT = 3\nALONE = True\nimport nothing_of_that_name\n")
    (tmp_path / "section_b.py").write_text("def (\n")
    a, b = conductor.sections(tmp_path)
    assert (a.name, a.weight, a.alone) == ("a", 3.0, True)
    assert (b.name, b.weight, b.alone) == ("b", 1.0, False)


class Cuda:
    """A device whose clock only launches move; a launch under capture goes into the graph instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.captured, self.broken = 0.0, None, False  # microseconds
        self.captures = list[list[float]]()
        cuda = self

        class Event:
            def __init__(self, enable_timing: bool) -> None: ...

            def record(self) -> None:
                self.at = cuda.now

            def elapsed_time(self, other: Event) -> float:
                return (other.at - self.at) / 1e3

        class Graph:
            def replay(self) -> None:
                cuda.now += sum(self.launches) + 7  # between two replays there is a gap

        @contextlib.contextmanager
        def capture(graph: Graph) -> Iterator[None]:
            cuda.captured = graph.launches = []
            try:
                yield
            finally:
                cuda.captured = None
                cuda.captures.append(graph.launches)

        fakes = {"Event": Event, "CUDAGraph": Graph, "graph": capture, "synchronize": lambda *_: None}
        fakes |= {"Stream": lambda: SimpleNamespace(wait_stream=lambda _: None)}
        fakes |= {"stream": contextlib.nullcontext, "current_stream": fakes["Stream"]}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(timing, "alive", lambda _: not cuda.broken)

    def launch(self, us: float) -> None:
        if self.captured is None:
            self.now += us + 20  # and one that was not captured waits for the host
        else:
            self.captured.append(us)


CUDA = torch.device("cuda")


def test_a_graph_holds_a_millisecond_of_launches_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    timer = timing.timer([lambda: cuda.launch(10.0), lambda: cuda.launch(30.0)], CUDA)
    assert timer.how == "graph"
    assert 40 <= len(cuda.captures[-1]) <= 60
    assert cuda.captures[-1][:4] == [10.0, 30.0, 10.0, 30.0]
    assert timer.read() == pytest.approx(20.0, abs=0.5)
    before = cuda.now
    timer.read()
    assert cuda.now - before < 0.25e6


def test_a_long_launch_is_repeated_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    timer = timing.timer([lambda: cuda.launch(100e3)], CUDA)
    assert cuda.captures == [[100e3]]
    before = cuda.now
    assert timer.read() == pytest.approx(100e3, rel=1e-3)
    assert cuda.now - before < 0.7e6


def test_what_cannot_be_captured_is_timed_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)

    def run() -> None:
        if cuda.captured is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        cuda.launch(50.0)

    monkeypatch.setattr(timing, "_mend", lambda: None)
    timer = timing.timer([run], CUDA)
    assert timer.how == "direct"
    assert timer.read() == pytest.approx(70.0)
    cuda.broken = True
    with pytest.raises(RuntimeError, match="capturing"):
        timing.timer([run], CUDA)


def test_a_lone_peer_is_held_against_launches_that_find_the_cache_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(monkeypatch)
    for name in ("alive", "synchronize"):
        monkeypatch.setattr(measuring, name, lambda _: True)

    def run(i: int) -> None:
        # Fast if the last launch had the same inputs.
        cuda.launch(4.0 if hot == [i] else 10.0)
        hot[:] = [i]

    hot: list[int] = []
    runs = [lambda i=i: run(i) for i in range(3)]
    case = Case(
        kernel="k", shape="s", runs=runs, wrong=lambda: 0.0, tolerance=1e-2, nbytes=100, flops=100,
        peers={"lone": lambda: cuda.launch(8.0), "in turn": [lambda: cuda.launch(20.0)] * 3},
    )  # fmt: skip
    tuner = tuning.Tuner(CUDA, 0.0, Writer(None))
    stages: list[str] = []
    found = measuring.measured(case, World(CUDA), frozenset(), tuner, stages.append)
    assert found["us"] == pytest.approx(10.0, abs=0.2)
    assert found["hot_us"] == pytest.approx(4.0, abs=0.4)
    assert found["peers"]["lone"]["ratio"] == pytest.approx(2.0, rel=0.1)
    assert found["peers"]["in turn"]["ratio"] == pytest.approx(2.0, rel=0.1)
    assert found["spread"] < 0.05
    assert found["ok"]
    assert "host_us" in found
    assert {"check", "time", "peer lone", "peer in turn", "check again"} <= set(stages)


# -- the kernels' own tests ---------------------------------------------------------------------------------

CASES = """
import time, pytest
@pytest.mark.parametrize("n", range(3))
def test_one(n): pass
def test_two(): {two}
"""


def check(
    kind: str, tmp_path: Path, two: str, seconds: float = 60, path: Sequence[Path] = ()
) -> checks.Verdict:
    file = tmp_path / "cases_toy.py"
    file.write_text(CASES.format(two=two))
    job = checks.job(kind, file, tmp_path, seconds)
    environment = (
        os.environ | job.environment | {"PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]])}
    )
    with job.log.open("wb") as log:
        done = subprocess.run(job.command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=60)
    return checks.verdict(job, done.returncode)


def test_exact_tells_what_passed_and_what_failed(tmp_path: Path) -> None:
    assert check("exact", tmp_path, "pass") == checks.Verdict("exact cases_toy", True, "4 passed")
    bad = check("exact", tmp_path, "assert 1 == 2")
    assert not bad.good
    assert bad.line == "1 failed, 3 passed; test_two - assert 1 == 2"
    died = check("exact", tmp_path, "import os; print('last words'); os._exit(5)")
    assert not died.good
    assert "status 5" in died.line


def test_exact_begins_with_one_of_each_and_ends_in_time(tmp_path: Path) -> None:
    late = check("exact", tmp_path, "time.sleep(3)", seconds=3)
    assert late.good
    assert "2 of 4 begun" in late.line  # one of test_one, test_two


def test_sanitize_reads_the_sum_of_errors(tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        '#!/bin/sh\nwhile [ "$1" != -m ]; do python=$1; shift; done\n"$python" "$@"\necho "$SAID"\n'
    )
    tool.chmod(0o755)
    os.environ["SAID"] = "========= ERROR SUMMARY: 0 errors"
    try:
        assert check("sanitize", tmp_path, "pass", path=[tmp_path]).line == "4 passed; memcheck: 0 errors"
        os.environ["SAID"] = "========= Invalid __global__ read of size 4\n========= ERROR SUMMARY: 3 errors"
        found = check("sanitize", tmp_path, "pass", path=[tmp_path])
    finally:
        del os.environ["SAID"]
    assert not found.good
    assert found.line == "4 passed; memcheck: 3 errors; Invalid __global__ read of size 4"


# -- the real sections --------------------------------------------------------------------------------------


# apart starts a whole pagewire, and needs a machine that is quiet enough to see token after token.
PROVEN = [s.name for s in conductor.sections(ROOT / "benchmarks" / "gpu") if s.name != "apart"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("name", PROVEN)
def test_a_section_runs_and_is_right_in_small(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--prove", "--only", name]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
