"""Compile kernels for a GPU that is not here, and read what came out.

``become(capability)`` puts a driver under Triton that compiles for that GPU whatever is launched, with the
very arguments of the launch, and launches nothing. What ptxas made of each kernel then tells registers,
spills, shared memory and which instructions multiply. Needs ``PAGEWIRE_TRITON=1`` in the environment before
any kernel is imported. Run as a program it compiles the ``launches()`` of case files and prints a table:

    PAGEWIRE_TRITON=1 python tests/kernels/offline_gpu.py cases_norm ...
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver

SHARED_BYTES = {90: 227 << 10}  # that a block may have
COPIES = "LDGSTS|UTMALDG"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Launch(NamedTuple):
    """What a case file gives in ``launches()``: a launch on CPU tensors, and what must be true of it."""

    name: str
    run: Callable[[], object]
    tensor_cores: bool = False
    """Its products must be warpgroup instructions (HGMMA, QGMMA, IGMMA)."""
    pipelined: bool = False
    """They must be fed by asynchronous copies."""


@dataclass(frozen=True)
class Compiled:
    kernel: str
    registers: int
    spilled: int  # bytes of stack
    shared: int  # bytes
    instructions: dict[str, int]  # how often each appears in the machine code

    def count(self, pattern: str) -> int:
        return sum(n for name, n in self.instructions.items() if re.match(pattern, name))

    @property
    def warpgroup_products(self) -> int:
        return self.count("[HQI]GMMA")


class _Utils:
    """Takes the compiled code in place of a GPU."""

    def __init__(self, capability: int) -> None:
        self.loaded: list[tuple[str, bytes, int]] = []
        self._capability = capability

    def load_binary(
        self, name: str, binary: bytes, shared: int, *_: object
    ) -> tuple[int, int, int, int, int]:
        self.loaded.append((name, binary, shared))
        return 0, 0, 0, 0, 1024

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {
            "max_shared_mem": SHARED_BYTES[self._capability],
            "multiprocessor_count": 132,
            "warpSize": 32,
            "max_num_regs": 65536,
        }

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class _NoLaunch:
    def __init__(self, *_: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> None: ...


class OfflineDriver(DriverBase):  # type: ignore[misc]
    launcher_cls = _NoLaunch
    binary_ext = "cubin"

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.utils = _Utils(capability)

    @staticmethod
    def is_active() -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_benchmarker(self) -> Callable[..., object]:
        raise NotImplementedError("nothing runs here")

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def become(capability: int = 90) -> OfflineDriver:
    chosen = OfflineDriver(capability)
    driver.set_active(chosen)
    return chosen


def compiled(chosen: OfflineDriver, run: Callable[[], object]) -> list[Compiled]:
    """What ``run`` launched that was not launched before."""
    before = len(chosen.utils.loaded)
    run()
    return [_read(*each) for each in chosen.utils.loaded[before:]]


def _read(kernel: str, binary: bytes, shared: int) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("cuobjdump", "--dump-sass", file.name)
    numbers = dict(re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage))
    names: dict[str, int] = {}
    for name in re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code, re.MULTILINE):
        names[name] = names.get(name, 0) + 1
    spilled = int(numbers["STACK"]) + int(numbers["LOCAL"])
    return Compiled(kernel, int(numbers["REG"]), spilled, shared, names)


def _tool(name: str, *arguments: str) -> str:
    run = subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True)
    return run.stdout


def report(chosen: OfflineDriver, launches: Iterator[Launch]) -> list[str]:
    """Print a line a kernel; return what is wrong."""
    wrong = []
    for launch in launches:
        try:
            found = compiled(chosen, launch.run)
        except Exception:
            wrong.append(f"{launch.name}: {traceback.format_exc()}")
            continue
        if not found:
            print(f"{launch.name:44} compiled before")
        for each in found:
            print(
                f"{launch.name:44} {each.kernel:28} {each.registers:3} registers {each.spilled:5} B spilled"
                f" {each.shared:6} B shared {each.warpgroup_products:4} warpgroup products"
                f" {each.count(COPIES):4} async copies",
                flush=True,
            )
            if each.spilled:
                wrong.append(f"{launch.name}: {each.kernel} spills {each.spilled} bytes")
            if each.shared > SHARED_BYTES[chosen.capability]:
                wrong.append(f"{launch.name}: {each.kernel} needs {each.shared} bytes of shared memory")
        if launch.tensor_cores and found and not any(each.warpgroup_products for each in found):
            wrong.append(f"{launch.name}: its products are no warpgroup instructions")
        if launch.pipelined and found and not any(each.count(COPIES) for each in found):
            wrong.append(f"{launch.name}: its loads are not pipelined")
    return wrong


def main(names: list[str]) -> int:
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    # A cache of our own: what is found in a cache is not compiled, but loaded all the same.
    chosen, wrong = become(), []
    for name in names:
        wrong += report(chosen, importlib.import_module(name).launches())
    for line in wrong:
        print(f"WRONG {line}", file=sys.stderr)
    return min(1, len(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
