"""A child of the router that compiles grammars of strangers, so that one that breaks it breaks nothing else.

    python -m router.grammar_worker MODEL

A line of JSON for each grammar on standard input, [kind, text], and one for each answer: why it is refused,
or "". The first line says that it is ready. A grammar is compiled and followed for some tokens of the model's
own, as the nodes will do. Knows limits of memory and time, which are the kernel's to keep; knows no request.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

from pagewire import lifeline
from pagewire.errors import RequestError
from pagewire.grammar import Vocabulary
from pagewire.hub import resolve
from pagewire.sampling import Grammar
from pagewire.text.tokenizer import load_tokenizer

READY = "ready"
MEMORY = 512 << 20  # bytes of address space, beside what the vocabulary has taken
CPU_S = 4  # seconds of one grammar: the router's patience is shorter, but it may be gone


def main() -> None:
    lifeline.end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the router says when to end
    tokenizer = load_tokenizer(resolve(sys.argv[1]))
    eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    vocabulary = Vocabulary.of(tokenizer, tokenizer.vocab_size, eos)
    _limit_memory()
    _say(READY)
    for line in sys.stdin:
        _limit_time()
        _say(_fault(vocabulary, Grammar(*json.loads(line))))


def _fault(vocabulary: Vocabulary, grammar: Grammar) -> str:
    try:
        vocabulary.probe(grammar)
    except RequestError as error:
        return str(error)
    except MemoryError:
        return "the grammar takes too much memory to compile"
    return ""


def _limit_memory() -> None:
    """Where the system tells how much there is already. What is beyond the limit ends the process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if (statm := Path("/proc/self/statm")).exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def _limit_time() -> None:
    times = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(times.ru_utime + times.ru_stime) + CPU_S, hard))


def _say(text: str) -> None:
    print(json.dumps(text), flush=True)


if __name__ == "__main__":
    main()
