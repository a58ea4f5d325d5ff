"""The kernels' own tests, compiled on the GPU: against their references (``exact``), and under
compute-sanitizer's memcheck (``sanitize``).

A file a process: an illegal access fails what comes after it in its own process only. Each ends itself in
time. Reads what pytest and compute-sanitizer print, into a line each.
"""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.processes import ROOT, Job, last_words

CASES = ROOT / "tests" / "kernels"
SANITIZER = "compute-sanitizer"
# Errors that calls return are the callers' business: torch and Triton ask for more than there is and go on.
MEMCHECK = [SANITIZER, "--tool", "memcheck", "--print-limit", "5", "--report-api-errors", "no"]


@dataclass(frozen=True)
class Verdict:
    name: str
    good: bool
    line: str


def available(kind: str) -> str:
    """Why this check cannot be made; empty if it can."""
    if kind == "sanitize" and shutil.which(SANITIZER) is None:
        return f"{SANITIZER} is not on the PATH"
    return ""


def jobs(kind: str, folder: Path, seconds: float, only: str = "", interpret: bool = False) -> list[Job]:
    """One for each file of cases; ``only`` is pytest's ``-k``."""
    return [job(kind, file, folder, seconds, only, interpret) for file in sorted(CASES.glob("cases_*.py"))]


def job(kind: str, file: Path, folder: Path, seconds: float, only: str = "", interpret: bool = False) -> Job:
    pytest = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(ROOT), "-q", "-W", "ignore"]
    pytest += ["-p", "no:cacheprovider", "-p", "benchmarks.gpu.pytest_limit", "-rfE", "--tb=short"]
    pytest += ["-k", only] if only else []
    memcheck = MEMCHECK if kind == "sanitize" else []
    environment = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{CASES}",
        "PAGEWIRE_TEST_SECONDS": f"{seconds}",
        "TRITON_INTERPRET": "1" if interpret else "0",
        "OMP_NUM_THREADS": "1",
        # Else an access beyond a tensor is one within the allocator's block, and nobody sees it.
        **({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if kind == "sanitize" else {}),
    }
    name = f"{kind} {file.stem}"
    log = folder / f"{kind}_{file.stem}.log"
    return Job(name, [*memcheck, *pytest, str(file)], log, environment)


def verdict(job: Job, status: int | None) -> Verdict:
    text = job.log.read_text(errors="replace") if job.log.exists() else ""
    begun = re.search(r"^PAGEWIRE begun (\d+) of (\d+)$", text, re.MULTILINE)
    told = re.findall(r"^(?:=+ )?((?:\d+ \w+(?:, )?)+) in [\d.]+s.*$", text, re.MULTILINE)
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)$", text, re.MULTILINE)
    parts = [told[-1]] if told else []
    parts += [f"{begun[1]} of {begun[2]} begun" if begun and begun[1] != begun[2] else ""]
    good = bool(told) and not failed and status is not None
    if job.name.startswith("sanitize"):
        errors = re.findall(r"^========= ERROR SUMMARY: (\d+) error", text, re.MULTILINE)
        good &= bool(errors) and not any(map(int, errors))
        parts.append(f"memcheck: {sum(map(int, errors))} errors" if errors else "memcheck came to no end")
        parts += re.findall(
            r"^========= ((?:Invalid|Misaligned|Program hit|Error:|Device not).*)$", text, re.M
        )[:2]
    parts += [line.split("::", 1)[-1] for line in failed[:2]]
    parts += [f"and {len(failed) - 2} more"] if len(failed) > 2 else []
    if status is None:
        parts.append("stopped: out of time")
    elif not told:
        parts.append(f"status {status}: {last_words(job.log)}")
    return Verdict(job.name, good, "; ".join(part[:160] for part in parts if part))
