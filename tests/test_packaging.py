"""What may be imported without torch, and what the set-up files promise."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pagewire

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BLOCKED = ("torch", "triton", "safetensors", "transformers")
NEEDS_TORCH = re.compile(r"pagewire\.(engine|llm|node|node_loop|node_role|replies|cli\.worker)(\..*)?$")
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""


def python(source: str) -> str:
    """Output of ``source`` in a fresh interpreter that sees this tree. Its errors are ours."""
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def files_of(package: str) -> list[str]:
    """Module names of ``package`` by its files, so that nothing is imported to find them."""
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (ROOT / package).rglob("*.py")]
    return sorted(name.removesuffix(".__init__") for name in names)


TORCH_FREE = [
    name
    for package in ("router", "planner", "pagewire")
    for name in files_of(package)
    if not NEEDS_TORCH.match(name)
]


def test_importing_pagewire_loads_no_torch() -> None:
    assert python("import sys, pagewire; print('torch' in sys.modules)") == "False"


def test_router_planner_and_the_command_line_run_without_torch() -> None:
    imports = "".join(f"import {name}\n" for name in TORCH_FREE)
    assert python(BLOCKER + imports + "print('done')") == "done"


def test_the_list_above_is_not_empty() -> None:
    assert {"router.options", "planner", "pagewire.cli.serve", "pagewire.mailbox"} <= set(TORCH_FREE)


def test_the_blocker_blocks() -> None:
    said = python(BLOCKER + "try:\n    import torch\nexcept ImportError as error:\n    print(error)")
    assert said == "torch is blocked"


def test_the_command_loads_neither_torch_nor_a_web_server() -> None:
    found = "[m for m in ('torch', 'fastapi', 'zmq') if m in sys.modules]"
    assert python(f"import sys\nimport pagewire.cli.main\nprint({found})") == "[]"


def test_a_node_on_a_cpu_loads_no_compiler() -> None:
    """torch._dynamo and triton take two seconds and much memory, and are for GPUs."""
    found = "[m for m in ('triton', 'torch._dynamo') if m in sys.modules]"
    code = "import torch; torch.cuda.is_available = lambda: False; import prefill_node.main, decode_node.main"
    assert python(f"import sys; {code}; print({found})") == "[]"


def test_one_version() -> None:
    assert PROJECT["project"]["version"] == pagewire.__version__


def test_all_our_packages_are_shipped_and_typed() -> None:
    shipped = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    for pattern in shipped:
        assert (ROOT / pattern.rstrip("*") / "py.typed").is_file()


def test_every_tested_version_is_pinned() -> None:
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", pin) for pin in pins)
    assert len({pin.split("==")[0].lower() for pin in pins}) == len(pins)


def test_the_makefile_installs_torch_first_and_by_its_pin() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t$(PIP)")]
    assert "^torch==" in lines[0]
    assert "-e '.[worker,dev]'" in lines[1]
