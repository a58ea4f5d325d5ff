"""The private folder of one ``pagewire serve``: where the sockets between its processes lie.

It goes away with the supervisor; one that was killed leaves it behind, and the next supervisor removes it.
Knows folders and locks; knows nothing of what lies in them.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "pagewire-serve-"
_NEW = 60.0  # seconds in which a folder may not be locked yet
_LONGEST_BASE = 60  # bytes; a socket's path may have about 100


@contextmanager
def private_folder(base: Path | None = None) -> Iterator[Path]:
    """A new folder that only we can enter, under ``base`` (default: that for temporary files)."""
    base = base or _base()
    _sweep(base, time.time())
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=base) as name:
        fd = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held as long as we live: it is in use
            yield Path(name)
        finally:
            os.close(fd)


def new_secret(folder: Path) -> Path:
    """A file with a fresh cluster secret, readable by us alone."""
    path = folder / "secret"
    path.touch(mode=0o600)
    path.write_bytes(secrets.token_bytes(32))
    return path


def _base() -> Path:
    folder = tempfile.gettempdir()
    return Path(folder if len(os.fsencode(folder)) <= _LONGEST_BASE else "/tmp")


def _sweep(base: Path, now: float) -> None:
    """Remove the folders of supervisors that are gone: ours, old enough, and locked by nobody."""
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # somebody else's, or gone by now
            continue
        try:
            about = os.fstat(fd)
            if about.st_uid == os.getuid() and now - about.st_mtime > _NEW:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
