"""What only this user can read, and what only this host can reach.

Knows files and addresses; knows no secret and no socket.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from pagewire.errors import ConfigError


def private_bytes(path: str | Path, what: str) -> bytes:
    """The content of a file that only this user may read. Raises ConfigError, which calls it ``what``."""
    file = Path(path)
    try:
        state = file.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ConfigError(f"{what} {path} is not a file")
        if others_may_touch(state, os.geteuid(), {os.getegid(), *os.getgroups()}):
            raise ConfigError(f"{what} {path} may be read by others; run: chmod 600 {path}")
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from error


def state_folder() -> Path:
    """Where this user's own secret and sockets lie on this host; made when first asked for. Raises
    ConfigError."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    folder = Path(state) / "pagewire"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}") from error
    return folder


def others_may_touch(state: os.stat_result, user: int, groups: Collection[int]) -> bool:
    """True if more than ``user`` and root can do something with a file.

    A file of root's may be read by a group of the user's: that is how Kubernetes hands a secret to a process
    that is not root.
    """
    handed = state.st_uid == 0 and user != 0 and state.st_gid in groups
    return bool(stat.S_IMODE(state.st_mode) & (0o037 if handed else 0o077))


def is_local(address: str) -> bool:
    """True if only this host can reach a socket bound at ``address``."""
    parts = urlsplit(address)
    if parts.scheme in ("inproc", "ipc", "shm"):
        return True
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False  # a wildcard, a host name or an interface
