"""Hosts of a network that exists only for a test: each a network namespace with one TUN device.

Knows namespaces, addresses and processes that run in them. The namespaces have no name: they live as long as
somebody holds them, so that nothing is left behind however the test ends. What leaves a host comes out of
its ``tun`` descriptor as bare IP packets; carrying those is the business of ``badwire``. Linux and root.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

MTU = 1400
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PR_SET_PDEATHSIG = 1
_TUN = "/dev/net/tun"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Host:
    """``space`` holds the namespace, ``tun`` is the far end of its only wire; both are ours to close."""

    name: str
    address: str
    space: int
    tun: int

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and the threads and processes that it starts meanwhile, are on this host."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _enter(self.space)
        try:
            yield
        finally:
            _enter(home)
            os.close(home)

    def start(self, command: Sequence[str], log: IO[Any], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Run ``command`` here. It does not outlive the thread that started it."""
        wrapped = [sys.executable, str(Path(__file__)), str(self.space), *command]
        return subprocess.Popen(
            wrapped, stdout=log, stderr=subprocess.STDOUT, env=dict(env), pass_fds=[self.space]
        )

    def also(self, address: str, *, add: bool) -> None:
        """Take ``address`` over: what this host sends there stays here, until it is given back."""
        with self.inside():
            _ip(f"addr {'add' if add else 'del'} {address}/32 dev lo")

    def close(self) -> None:
        os.close(self.space)
        os.close(self.tun)


def missing() -> str | None:
    """Why hosts cannot be made here, or None."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip"
    try:
        host("probe", "10.77.0.254").close()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespace with a TUN device can be made: {error}"
    return None


def host(name: str, address: str) -> Host:
    """A new host. Raises OSError or CalledProcessError where that is not allowed."""

    def make() -> Host:
        _check(_libc().unshare(_CLONE_NEWNET))
        space = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        tun = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"wire", _IFF_TUN | _IFF_NO_PI))
        for what in (
            "link set lo up",
            f"addr add {address}/24 dev wire",
            f"link set wire mtu {MTU} up txqueuelen 10000",
        ):
            _ip(what)
        return Host(name, address, space, tun)

    return _aside(make)


def _aside(make: Callable[[], T]) -> T:
    """The result of ``make``, called on a thread whose namespace may change."""
    made: list[T | BaseException] = []

    def run() -> None:
        try:
            made.append(make())
        except (OSError, subprocess.CalledProcessError) as error:
            made.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]


def _ip(what: str) -> None:
    subprocess.run(["ip", *what.split()], check=True, capture_output=True)


def _enter(space: int) -> None:
    _check(_libc().setns(space, _CLONE_NEWNET))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _become(space: int, command: list[str]) -> None:
    """Replace this process by ``command`` on the host that ``space`` holds. It ends with its parent."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _enter(space)
    os.close(space)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
