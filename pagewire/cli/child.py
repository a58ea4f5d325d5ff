"""What a child of ``pagewire serve`` runs first: takes its pipes up, then becomes the router or a node.

    python -m pagewire.cli.child ROLE NAME

NAME is only for people who read process lists. See ``pagewire.cli.children`` for the pipes. Loads nothing
heavy before the lifeline is watched.
"""

from __future__ import annotations

import os
import sys

from pagewire import lifeline, status
from pagewire.cli import roles
from pagewire.errors import PagewireError


def main() -> None:
    role = sys.argv[1]
    stdin, stdout = _take(0, os.O_RDONLY), _take(1, os.O_WRONLY)
    options = roles.from_json(role, _line(stdin), status_fd=stdout)
    lifeline.watch(stdin)
    try:
        roles.run(options)
    except PagewireError as error:
        status.Reporter(stdout).failed(error.code, str(error))
        raise SystemExit(2) from None


def _take(fd: int, mode: int) -> int:
    """Move ``fd`` out of the way of libraries that read standard input or print to standard output."""
    moved = os.dup(fd)
    if mode == os.O_RDONLY:
        null = os.open(os.devnull, mode)
        os.dup2(null, fd)
        os.close(null)
    else:
        os.dup2(2, fd)
    return moved


def _line(fd: int) -> bytes:
    """The first line from ``fd``; the writer sends nothing after it."""
    data = b""
    while not data.endswith(b"\n"):
        chunk = os.read(fd, 1 << 16)
        if not chunk:  # the supervisor died before it had said anything
            raise SystemExit(1)
        data += chunk
    return data


if __name__ == "__main__":
    main()
