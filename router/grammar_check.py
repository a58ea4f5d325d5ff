"""Whether grammars of clients can be used: found out in child processes, before a request costs anything.

The event loop waits for nobody: threads talk to the children. What was found out is remembered. Knows when a
grammar is looked at and how many may wait; what is wrong with it, ``router.grammar_worker`` says.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor

from pagewire.errors import RequestError, Unavailable
from pagewire.sampling import Grammar
from router.grammar_process import PATIENCE_S, GrammarProcess, Verdict

CHILDREN = 2
KEPT = 64  # verdicts
MAX_OPEN = 32  # grammars that are compiled or wait for it


class GrammarCheck:
    """Starts no process before the first grammar. To be closed."""

    def __init__(self, model: str, patience_s: float = PATIENCE_S, children: int = CHILDREN) -> None:
        """``model`` is what ``pagewire.hub.resolve`` takes."""
        self.processes = [GrammarProcess(model, patience_s) for _ in range(children)]
        self._idle = deque(self.processes)
        self._threads = ThreadPoolExecutor(children, "grammar-check")
        self._open: dict[Grammar, asyncio.Task[Verdict]] = {}
        self._known: OrderedDict[Grammar, Verdict] = OrderedDict()

    async def check(self, grammar: Grammar, param: str) -> None:
        """Raises RequestError, which names ``param``, if ``grammar`` cannot be used; Unavailable if too many
        wait.
        """
        verdict = self._known.get(grammar)
        if verdict is None:
            verdict = await asyncio.shield(self._begun(grammar))
        else:
            self._known.move_to_end(grammar)
        if verdict.fault:
            raise RequestError(f"{param}: {verdict.fault}", param=param)

    def close(self) -> None:
        """End the children. One that compiles is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.stop()
        self._threads.shutdown()
        for process in self.processes:
            process.close()

    def _begun(self, grammar: Grammar) -> asyncio.Task[Verdict]:
        """Those who ask for the same one wait for the same answer."""
        if grammar not in self._open:
            if len(self._open) >= MAX_OPEN:
                raise Unavailable("too many grammars are being compiled", status=429)
            self._open[grammar] = asyncio.create_task(self._found_out(grammar))
        return self._open[grammar]

    async def _found_out(self, grammar: Grammar) -> Verdict:
        try:
            loop = asyncio.get_running_loop()
            verdict = await loop.run_in_executor(self._threads, self._compile, grammar)
        finally:
            del self._open[grammar]
        if verdict.sure:
            self._known[grammar] = verdict
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return verdict

    def _compile(self, grammar: Grammar) -> Verdict:
        """In a thread; there are as many of them as processes."""
        process = self._idle.pop()
        try:
            return process.check(grammar)
        finally:
            self._idle.append(process)
