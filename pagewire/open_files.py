"""How many files a process may have open: each connection is one, and ZeroMQ takes three for one that it
dials.

Knows this process's own limits; raises no hard one.
"""

from __future__ import annotations

import resource

FILES = 4096  # where the system allows it


def allow_files() -> None:
    """A connection is an open file, and many systems allow a process 1,024 unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
