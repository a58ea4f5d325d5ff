"""Machines are folders here: /proc and /sys as each kind of machine would show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagewire.cli import machine

MEMINFO = "MemTotal:       16000000 kB\nMemFree:  1000 kB\nMemAvailable:    8000000 kB\n"


def a_machine(root: Path, **files: str) -> Path:
    """Files by path, with __ for a slash and _DOT_ for a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000\n", 16), ("250000 100000\n", 2), ("50000 100000\n", 1), ("9900000 100000", 16)],
)
def test_a_cgroup_cuts_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    assert machine.cores(a_machine(tmp_path, sys__fs__cgroup__cpu_DOT_max=quota)) == cores


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("quota", "nodes", "cores"),
    [
        ("max 100000\n", 2, 16),
        ("1600000 100000\n", 2, 16),
        ("1500000 100000\n", 2, 0),
        ("max 100000\n", 16, 16),
        ("max 100000\n", 17, 0),
    ],
)
def test_cores_are_shared_unless_time_is_metered_or_nodes_are_many(
    tmp_path: Path, quota: str, nodes: int, cores: int
) -> None:
    assert machine.cores_to_share(nodes, a_machine(tmp_path, sys__fs__cgroup__cpu_DOT_max=quota)) == cores


@pytest.mark.usefixtures("sixteen_cores")
def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert machine.cores(tmp_path) == 16


@pytest.mark.parametrize(("quota", "cpus"), [("-1", None), ("150000", 1.5)])
def test_the_first_version_of_cgroups(tmp_path: Path, quota: str, cpus: float | None) -> None:
    root = a_machine(
        tmp_path,
        sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us=quota,
        sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us="100000",
    )
    assert machine.cgroup_cpus(root) == cpus


def test_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    assert machine.memory_available(a_machine(tmp_path, proc__meminfo=MEMINFO)) == 8_000_000 * 1024


def test_memory_is_cut_by_the_cgroup(tmp_path: Path) -> None:
    root = a_machine(
        tmp_path,
        proc__meminfo=MEMINFO,
        sys__fs__cgroup__memory_DOT_max="1000000",
        sys__fs__cgroup__memory_DOT_current="400000",
    )
    assert machine.memory_available(root) == 600_000


@pytest.mark.parametrize("limit", ["max", str((1 << 63) - 4096)])
def test_a_cgroup_without_a_limit(tmp_path: Path, limit: str) -> None:
    root = a_machine(
        tmp_path, sys__fs__cgroup__memory_DOT_max=limit, sys__fs__cgroup__memory_DOT_current="400000"
    )
    assert machine.cgroup_memory(root) is None


def test_instruction_sets_are_found_by_whole_words(tmp_path: Path) -> None:
    root = a_machine(tmp_path, proc__cpuinfo="model name\t: A CPU\nflags\t: fpu avx2 avx512fx amx_int8\n")
    assert (machine.isa(root), machine.cpu_name(root)) == (("avx2", "amx_int8"), "A CPU")


def test_no_shared_memory_folder(tmp_path: Path) -> None:
    assert machine.shm_free(tmp_path / "shm") is None


def test_this_machine_can_be_read() -> None:
    assert machine.cores() >= 1
    assert machine.memory_available() > 0


def test_gpus_are_those_of_the_driver_or_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.gpus(tmp_path) == ()
    for bus in ("0000:1b:00.0", "0000:2b:00.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / bus).mkdir(parents=True)
    assert machine.gpus(tmp_path) == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-ab")
    assert machine.gpus(tmp_path) == ("3", "GPU-ab")
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert machine.gpus(tmp_path) == ()
