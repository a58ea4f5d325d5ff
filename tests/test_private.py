"""Which files count as private."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pagewire.private import others_may_touch

ROOT = Path(__file__).resolve().parents[1]
ME, MINE = 10001, {10001, 20}


def state(mode: int, owner: int, group: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, group, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "owner", "group", "may"),
    [
        (0o400, ME, 10001, False),
        (0o600, ME, 10001, False),
        (0o440, ME, 10001, True),
        (0o440, 0, 10001, False),  # a secret of Kubernetes
        (0o440, 0, 20, False),
        (0o440, 0, 30, True),
        (0o460, 0, 10001, True),
        (0o450, 0, 10001, True),
        (0o444, 0, 10001, True),
        (0o441, 0, 10001, True),
        (0o440, 4, 10001, True),
    ],
)
def test_a_file_of_roots_may_be_read_by_our_group(mode: int, owner: int, group: int, may: bool) -> None:
    assert others_may_touch(state(mode, owner, group), ME, MINE) is may


def test_root_hands_itself_nothing() -> None:
    assert others_may_touch(state(0o440, 0, 0), 0, {0})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand a file to a group")
@pytest.mark.parametrize(("group", "taken"), [(10001, True), (30, False)])
def test_a_secret_as_kubernetes_mounts_it(tmp_path: Path, group: int, taken: bool) -> None:
    tmp_path.chmod(0o755)
    file = tmp_path / "secret"
    file.write_bytes(b"s" * 32)
    os.chown(file, 0, 10001)
    file.chmod(0o440)
    become = f"os.setgroups([]); os.setgid({group}); os.setuid({ME})"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import os; from pagewire.secret import load_secret; {become}; load_secret('secret')",
        ],
        env={"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode == 0) is taken, done.stderr
    assert ("chmod 600" in done.stderr) is not taken
