from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = "import os, signal, sys, threading\nfrom pagewire import lifeline\n"


def start(source: str, stdin: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START + source],
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )


def after_its_pipe_closed(source: str) -> tuple[int, str]:
    """Exit code and output of a child whose lifeline is cut once it has said that it is up."""
    with start(source) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        child.stdin.close()
        return child.wait(timeout=30), child.stdout.read()


def test_end_of_file_asks_first() -> None:
    source = (
        "def bye(*_):\n    os.write(1, b'bye\\n')\n    os._exit(7)\n"
        "signal.signal(signal.SIGTERM, bye)\n"
        "lifeline.watch(0)\nprint('up', flush=True)\nthreading.Event().wait()\n"
    )
    assert after_its_pipe_closed(source) == (7, "bye\n")


def test_end_of_file_ends_a_process_that_does_not_listen() -> None:
    source = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "lifeline.watch(0, grace=0.05)\nprint('up', flush=True)\nthreading.Event().wait()\n"
    )
    assert after_its_pipe_closed(source) == (1, "")


def test_end_of_file_before_the_first_read() -> None:
    with start("lifeline.watch(0)\nthreading.Event().wait()\n", stdin=subprocess.DEVNULL) as child:
        assert child.wait(timeout=30) == -signal.SIGTERM


def test_bytes_on_the_line_are_no_reason_to_end() -> None:
    with start("lifeline.watch(0)\nprint('up', flush=True)\nthreading.Event().wait(0.2)\n") as child:
        assert child.stdin is not None
        child.stdin.write("still here\n")
        child.stdin.flush()
        assert child.wait(timeout=30) == 0


def test_the_kernel_ends_it_even_if_somebody_else_holds_the_pipe() -> None:
    reader, writer = os.pipe()  # we keep the write end: the line is never cut
    child = f"{START}lifeline.watch({reader})\nprint('up', flush=True)\nthreading.Event().wait()\n"
    parent = (
        f"import subprocess\nargv = [sys.executable, '-c', {child!r}]\n"
        f"child = subprocess.Popen(argv, pass_fds=({reader},), stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", START + parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=(reader,),
        env={"PYTHONPATH": str(ROOT)},
    )
    with process:
        assert process.stdout is not None
        grandchild = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
    assert select.select([grandchild], [], [], 10)[0]
    for fd in (reader, writer, grandchild):
        os.close(fd)
