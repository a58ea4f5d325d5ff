from __future__ import annotations

import os
import stat
from pathlib import Path

from pagewire.cli.folder import new_secret, private_folder
from pagewire.secret import load_secret


def left_behind(base: Path, age: float) -> Path:
    """What a supervisor that was killed ``age`` seconds ago has left."""
    folder = base / "pagewire-serve-old"
    folder.mkdir()
    (folder / "router").touch()
    then = folder.stat().st_mtime - age
    os.utime(folder, (then, then))
    return folder


def test_nobody_else_can_enter_it(tmp_path: Path) -> None:
    with private_folder(tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_it_goes_away(tmp_path: Path) -> None:
    with private_folder(tmp_path) as folder:
        (folder / "router").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_supervisor_left_is_removed(tmp_path: Path) -> None:
    old = left_behind(tmp_path, age=100)
    with private_folder(tmp_path):
        assert not old.exists()


def test_what_may_just_have_been_made_is_not(tmp_path: Path) -> None:
    new = left_behind(tmp_path, age=10)
    with private_folder(tmp_path):
        assert new.exists()


def test_nor_what_is_in_use(tmp_path: Path) -> None:
    with private_folder(tmp_path) as used:
        os.utime(used, (0, 0))
        with private_folder(tmp_path):
            assert used.exists()


def test_a_secret_that_nodes_accept(tmp_path: Path) -> None:
    assert len(load_secret(new_secret(tmp_path))) == 32
