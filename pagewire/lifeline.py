"""A child's promise not to outlive its parent, whichever way the parent ends.

The parent holds the only write end of a pipe; the child watches the read end. When it closes, the parent is
gone (``kill -9`` closes it as well), and the child asks itself to stop with SIGTERM and ends by force if
that takes too long. On Linux the kernel also sends SIGTERM when the parent dies, which covers a child that
cannot run Python code just then. Knows file descriptors and signals; knows nothing of what the process
does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
GRACE = 2.0  # seconds from SIGTERM to the end by force


def watch(fd: int, *, grace: float = GRACE) -> threading.Thread:
    """End this process when ``fd`` reaches end of file. Takes ``fd`` over: nobody else may read from it.

    Call it before anything slow. Returns the daemon thread that watches.
    """
    end_with_parent()
    thread = threading.Thread(target=_wait, args=(fd, grace), name="lifeline", daemon=True)
    thread.start()
    return thread


def _wait(fd: int, grace: float) -> None:
    while os.read(fd, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    # Not sleep: the interpreter may be shutting down, and an event that is never set is a plain timed wait.
    threading.Event().wait(grace)
    os._exit(1)


def end_with_parent() -> None:
    """SIGTERM for us when the thread that forked us ends. A pipe covers a parent that is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
