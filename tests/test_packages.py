"""Whose the import names are. Each world is a folder of fake distributions, seen by a fresh interpreter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pagewire import packages
from pagewire.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def install(site: Path, distribution: str, name: str) -> None:
    """A distribution that provides ``import name``, as pip would leave it."""
    (site / name).mkdir(parents=True, exist_ok=True)
    (site / name / "__init__.py").write_text("")
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
    (info / "top_level.txt").write_text(f"{name}\n")


def ours(site: Path) -> None:
    """pagewire itself as an installed wheel, as far as the check looks at it."""
    (site / "pagewire").mkdir(parents=True)
    for file in ("__init__.py", "errors.py", "packages.py", "versions.py"):
        shutil.copy(ROOT / "pagewire" / file, site / "pagewire")
    for name in packages.NAMES:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("")


def check(*path: Path, thorough: bool = False) -> str:
    """What the check says with these folders on the import path, in this order."""
    source = (
        f"import sys; sys.path[:0] = {[str(p) for p in path]!r}\n"
        "from pagewire import packages\nfrom pagewire.errors import ConfigError\n"
        f"try:\n    packages.check(thorough={thorough})\nexcept ConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_all_is_well_here() -> None:
    packages.check()


def test_all_is_well_in_a_wheel(tmp_path: Path) -> None:
    ours(tmp_path)
    assert check(tmp_path, thorough=True) == ""


def test_another_kernels_that_lies_first_is_named(tmp_path: Path) -> None:
    install(tmp_path, "hf-kernels", "kernels")
    said = check(tmp_path, ROOT)
    assert f"import kernels finds {tmp_path / 'kernels'} of the distribution hf-kernels" in said
    assert "virtual environment of its own" in said


def test_another_kernels_that_lies_behind_does_no_harm(tmp_path: Path) -> None:
    install(tmp_path, "kernels", "kernels")
    assert check(ROOT, tmp_path) == ""


def test_a_folder_of_that_name_is_named_even_if_nobody_installed_it(tmp_path: Path) -> None:
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / "__init__.py").write_text("")
    assert f"import router finds {tmp_path / 'router'}, not pagewire's own router" in check(tmp_path, ROOT)


def test_a_module_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "planner.py").write_text("")
    assert f"import planner finds {tmp_path / 'planner.py'}" in check(tmp_path, ROOT)


def test_one_that_was_installed_over_ours(tmp_path: Path) -> None:
    ours(tmp_path)
    install(tmp_path, "kernels", "kernels")
    assert "pagewire's kernels has been written over by the distribution kernels" in check(tmp_path)


def test_one_of_another_name_that_was_installed_over_ours(tmp_path: Path) -> None:
    ours(tmp_path)
    install(tmp_path, "somebody-elses", "router")
    assert "written over by the distribution somebody-elses" in check(tmp_path, thorough=True)


def test_a_missing_package(tmp_path: Path) -> None:
    ours(tmp_path)
    shutil.rmtree(tmp_path / "planner")
    assert check(tmp_path) == "the package planner is missing beside pagewire; install pagewire again"


def test_it_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "NAMES", ("no_such_package",))
    with pytest.raises(ConfigError):
        packages.check()
