"""What this machine gives us: cores, memory, instruction sets. Reads /proc and /sys; loads no torch.

Every reader takes the root of the file system, so that a test can show it another machine.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

ROOT = Path("/")
_ISA = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")
_ARM_ISA = ("asimd", "bf16", "i8mm", "sve")


def cores(root: Path = ROOT) -> int:
    """CPU cores that this process may use: its affinity mask, cut by the cgroup's quota. At least 1."""
    quota = cgroup_cpus(root)
    return max(1, _allowed() if quota is None else min(_allowed(), math.floor(quota)))


def cores_to_share(nodes: int, root: Path = ROOT) -> int:
    """The cores of which one of ``nodes`` may use more than its part while others leave them idle; 0: none.

    None where a quota limits our time: what one node uses of it is missing when the others want it.
    """
    quota = cgroup_cpus(root)
    metered = quota is not None and quota < _allowed()
    return 0 if metered or _allowed() < nodes else _allowed()


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cgroup_cpus(root: Path = ROOT) -> float | None:
    """Cores' worth of CPU time that the cgroup allows (v2, then v1), or None if there is no limit."""
    words = _words(root / "sys/fs/cgroup/cpu.max")
    if not words:
        v1 = root / "sys/fs/cgroup/cpu"
        words = _words(v1 / "cpu.cfs_quota_us") + _words(v1 / "cpu.cfs_period_us")
    if len(words) != 2 or words[0] in ("max", "-1"):
        return None
    return int(words[0]) / int(words[1])


def cgroup_memory(root: Path = ROOT) -> int | None:
    """Bytes that the cgroup still allows (limit less use), or None if there is no limit."""
    base = root / "sys/fs/cgroup"
    limit, used = _words(base / "memory.max"), _words(base / "memory.current")
    if not limit:
        limit = _words(base / "memory/memory.limit_in_bytes")
        used = _words(base / "memory/memory.usage_in_bytes")
    if not limit or not used or limit[0] == "max" or int(limit[0]) >= 1 << 60:
        return None
    return max(0, int(limit[0]) - int(used[0]))


def memory_available(root: Path = ROOT) -> int:
    """Bytes that new processes can take: the kernel's own estimate, cut by the cgroup's limit."""
    words = _words(root / "proc/meminfo")
    host = int(words[words.index("MemAvailable:") + 1]) * 1024 if "MemAvailable:" in words else 0
    limit = cgroup_memory(root)
    return host if limit is None else min(host, limit)


def isa(root: Path = ROOT) -> tuple[str, ...]:
    """The vector and matrix instruction sets that matter to us, as the kernel names them."""
    flags = set(_words(root / "proc/cpuinfo"))
    return tuple(name for name in (*_ISA, *_ARM_ISA) if name in flags)


def cpu_name(root: Path = ROOT) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return os.uname().machine


def gpus(root: Path = ROOT) -> tuple[str, ...]:
    """The NVIDIA GPUs that this process may use, by the names that ``CUDA_VISIBLE_DEVICES`` gives them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    folder = root / "proc/driver/nvidia/gpus"
    return tuple(str(i) for i, _ in enumerate(folder.iterdir())) if folder.is_dir() else ()


def shm_free(folder: Path = ROOT / "dev/shm") -> int | None:
    """Bytes free in the shared-memory file system, or None where there is none."""
    return shutil.disk_usage(folder).free if folder.is_dir() else None


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _words(path: Path) -> list[str]:
    return _text(path).split()
