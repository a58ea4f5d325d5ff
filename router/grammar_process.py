"""The router's side of ``router.grammar_worker``: one such child, started when it is first needed.

Blocks, and is for one thread at a time. A child that has not answered in time, or has died, is replaced with
the next grammar. Knows processes and a socket; knows no event loop and no request.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from pagewire.errors import Unavailable
from pagewire.sampling import Grammar

START_S = 30.0  # to load the tokenizer
PATIENCE_S = 2.0  # for one grammar
MAX_ANSWER = 16 << 10  # bytes


class Verdict(NamedTuple):
    """``fault``: why the grammar is refused, or "". ``sure``: it would be again."""

    fault: str
    sure: bool = True


TOO_LONG = Verdict(f"the grammar takes more than {PATIENCE_S:g} seconds to compile", sure=False)
TOO_MUCH = Verdict("the grammar takes too much memory or time to compile", sure=False)


class GrammarProcess:
    def __init__(
        self,
        model: str,
        patience_s: float = PATIENCE_S,
        program: Sequence[str] = ("-m", "router.grammar_worker"),
    ) -> None:
        """``model`` is what ``pagewire.hub.resolve`` takes; ``program`` is for Python."""
        self._command, self._patience_s = [sys.executable, *program, model], patience_s
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        return None if (child := self._child) is None else child.pid

    def check(self, grammar: Grammar) -> Verdict:
        """Raises Unavailable if there can be no child."""
        for _ in range(2):  # the first child may have died of something else
            line = self._started()
            try:
                line.settimeout(self._patience_s)
                line.sendall(json.dumps([grammar.kind, grammar.text]).encode() + b"\n")
                return Verdict(_answer(line, self._patience_s))
            except TimeoutError:
                self.close()
                return TOO_LONG
            except (OSError, ValueError):
                self.close()
        return TOO_MUCH

    def stop(self) -> None:
        """End the child under the thread that waits for it."""
        if (child := self._child) is not None:
            child.kill()

    def close(self) -> None:
        """End the child, whatever it does. ``check`` starts another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _started(self) -> socket.socket:
        if self._socket is not None and self._child is not None and self._child.poll() is None:
            return self._socket
        self.close()
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._child = subprocess.Popen(self._command, stdin=theirs.fileno(), stdout=theirs.fileno())
            _answer(self._socket, START_S)
        except (OSError, ValueError) as error:
            self.close()
            raise Unavailable("grammars cannot be checked now", retry_after=2.0) from error
        return self._socket


def _answer(line: socket.socket, patience_s: float) -> str:
    """Raises TimeoutError, or another OSError or ValueError if what comes is no answer."""
    until, found = time.monotonic() + patience_s, b""
    while not found.endswith(b"\n") and len(found) < MAX_ANSWER:
        line.settimeout(max(0.001, until - time.monotonic()))
        part = line.recv(MAX_ANSWER)
        if not part:
            raise ConnectionResetError("the child is gone")
        found += part
    answer = json.loads(found)
    if not isinstance(answer, str):
        raise ValueError("not an answer")
    return answer
