"""deploy/Dockerfile: what its steps say, and the steps themselves in a virtual environment."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVED = ("router", "worker", "worker-cuda")


class Stage(NamedTuple):
    base: str
    steps: list[tuple[str, str]]  # instruction and its words, continued lines joined


def stages() -> dict[str, Stage]:
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        instruction, _, words = line.partition(" ")
        if instruction == "FROM":
            base, _, name = words.partition(" AS ")
            found[name] = current = Stage(base, [])
        elif line and found:
            current.steps.append((instruction, words))
    return found


STAGES = stages()


def lineage(name: str) -> list[tuple[str, str]]:
    """The steps of ``name`` and of what it stands on, first to last."""
    stage = STAGES.get(name)
    return [] if stage is None else [*lineage(stage.base), *stage.steps]


def last(name: str, instruction: str) -> str:
    return [words for kind, words in lineage(name) if kind == instruction][-1]


def sent() -> list[str]:
    """Files that .dockerignore lets through, of those that git knows or would."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    return [path for path in listed.stdout.splitlines() if _passes(path, rules)]


def _passes(path: str, rules: list[str]) -> bool:
    passes = True
    ancestors = ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 2)]
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        names = [Path(a).name for a in ancestors] if "**/" in rule else ancestors
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            passes = rule.startswith("!")
    return passes


@pytest.mark.parametrize("name", SERVED)
def test_an_image_does_not_run_as_root_and_starts_pagewire(name: str) -> None:
    assert last(name, "USER") == "pagewire"
    assert STAGES[name].steps[-2][0] == "USER"  # after the last RUN
    assert last(name, "ENTRYPOINT") == '["pagewire"]'
    assert not [words for kind, words in lineage(name) if kind == "HEALTHCHECK"]


@pytest.mark.parametrize("name", SERVED)
def test_the_code_is_the_last_layer(name: str) -> None:
    runs = [words for kind, words in STAGES[name].steps if kind == "RUN"]
    assert ["from=wheel" in words for words in runs] == [False] * (len(runs) - 1) + [True]
    assert not [words for kind, words in lineage(name) if kind == "COPY"]


def test_only_the_images_for_nodes_have_torch() -> None:
    torch = {
        name for name in SERVED if any("torch" in words for kind, words in lineage(name) if kind == "RUN")
    }
    assert torch == {"worker", "worker-cuda"}


def test_a_build_is_sent_the_packages_and_nothing_else() -> None:
    files = sent()
    folders = {path.partition("/")[0] for path in files if "/" in path}
    packages = {
        name.rstrip("*")
        for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"][
            "find"
        ]["include"]
    }
    assert folders == packages | {"deploy"}
    assert {path for path in files if "/" not in path or path.startswith("deploy/")} == {
        "LICENSE", "README.md", "constraints.txt", "pyproject.toml", "deploy/requirements.py",
    }  # fmt: skip
    assert not _passes("secrets/cluster", (ROOT / ".dockerignore").read_text().split("\n")[1:])


def requirements(*words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, ROOT / "deploy/requirements.py", *words],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_requirements_are_those_of_the_package() -> None:
    extras = PROJECT["optional-dependencies"]
    assert requirements() == PROJECT["dependencies"]
    assert requirements("otel", "worker") == PROJECT["dependencies"] + extras["otel"] + extras["worker"]
    kept = [line for line in extras["worker"] if not line.startswith(("torch", "triton"))]
    assert (
        requirements("worker", "--without", "torch", "--without", "triton") == PROJECT["dependencies"] + kept
    )


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_router_image_as_a_virtual_environment(tmp_path: Path) -> None:
    """Each RUN of the stages that make it, in their order, with pip and python of a new environment.

    Left out are apt-get and useradd, which would change the machine; folders at / lie in ``tmp_path``.
    """
    here = tmp_path / "root"
    venv.create(here / "venv", with_pip=True)
    source = here / "src"
    for path in sent():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    (here / "requirements").mkdir()
    for path in ("pyproject.toml", "constraints.txt", "deploy/requirements.py"):
        shutil.copy(ROOT / path, here / "requirements")

    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "PATH": f"{here}/venv/bin:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    ran: list[str] = []
    for name, folder in (
        ("requirements", "requirements"),
        ("wheel", "src"),
        ("common", "."),
        ("router", "."),
    ):
        for kind, words in STAGES[name].steps:
            if kind != "RUN" or re.search(r"apt-get|useradd", words):
                continue
            step = re.sub(r"--mount=\S+", "", words)
            step = re.sub(r"(?<![\w.])/(requirements|wheels)\b", rf"{here}/\1", step)
            ran.append(step)
            done = subprocess.run(
                ["sh", "-ec", step],
                cwd=here / folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=900,
            )
            assert done.returncode == 0, step + done.stdout + done.stderr
    assert len(ran) == 5

    def inside(*words: str) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Needs no torch" in " ".join(inside("pagewire", "router", "--help").split())
    assert inside("python", "-c", CHECK).split() == ["[]", "1"]


CHECK = """
import importlib.util, pathlib
import kernels, opentelemetry.sdk, planner, router.main
print([name for name in ("torch", "triton") if importlib.util.find_spec(name)])
print(len(list(pathlib.Path(kernels.__file__).parent.glob("_native*.so"))))
"""
