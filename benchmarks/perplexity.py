"""What rounding costs: the perplexity of pagewire's forms of a model and of llama.cpp's, over the same text.

    python benchmarks/perplexity.py --llama-cpp VENV [--text FILE] [--tokens 8192] [--json out.json]

The text is cut into windows of 1,024 tokens; what is asked is the second half of each, so that every token
has at least 512 before it. llama-perplexity does the same, and pagewire is asked through `LLM` for the
prompt's log-probabilities. Without --text it is the reference of Python's own language, which comes with
Python. K and V are kept as each does by default, in bfloat16 or float16; in float32 beside such weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pydoc_data.topics
import re
import subprocess
import tempfile
from pathlib import Path

from measure import machine, progress, table
from peer_models import Forms
from peer_systems import llama_tools

from pagewire import LLM, SamplingParams
from pagewire.hub import resolve

WINDOW, FIRST = 1_024, 512  # the first that is asked is number FIRST + 1 of its window
OURS = {
    "pagewire, float32": {"quantization": "none"},
    "pagewire, weights as in the file, rows in 16 bits": {"quantization": "gguf", "activation_bits": "16"},
    "pagewire, as it is served": {},
    "pagewire, rows in 8 bits": {"quantization": "gguf", "activation_bits": "8"},
    "pagewire, weights in int8": {"quantization": "int8"},
}
THEIRS = ("as-is", "Q8_0", "Q4_0")
FOUND = re.compile(r"calculating perplexity over (\d+) chunks.*Final estimate: PPL = ([\d.]+)", re.DOTALL)


def ours(model: str, text: str, most: int, forms: dict[str, str]) -> tuple[float, int]:
    """Perplexity, and of how many windows."""
    llm = LLM(model, threads=os.cpu_count(), enable_prefix_caching=False, **forms)  # type: ignore[arg-type]
    tokens = llm.get_tokenizer().encode(text)[:most]
    windows = [tokens[at : at + WINDOW] for at in range(0, len(tokens) - WINDOW + 1, WINDOW)]
    asked = SamplingParams(max_tokens=1, prompt_logprobs=0)
    logprobs: list[float] = []
    for out in llm.generate(windows, asked):
        assert out.prompt_logprobs is not None
        pairs = zip(out.prompt_token_ids, out.prompt_logprobs, strict=True)
        logprobs += [entry[token].logprob for token, entry in list(pairs)[FIRST + 1 :] if entry is not None]
    return math.exp(-sum(logprobs) / len(logprobs)), len(windows)


def theirs(tool: Path, model: Path, text: Path) -> tuple[float, int]:
    words = [str(tool), "-m", str(model), "-f", str(text), "-c", str(WINDOW), "-fa", "on"]
    environment = os.environ | {"LD_LIBRARY_PATH": str(tool.parent)}
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, env=environment
    )
    found = FOUND.search(done.stdout)
    assert found is not None, done.stdout[-2000:]
    return float(found[2]), int(found[1])


def measured(args: argparse.Namespace) -> dict[str, tuple[float, int]]:
    text, source = args.text.read_text() if args.text else _reference(), resolve(args.model)
    found = {}
    for name, form in OURS.items():
        progress(name)
        found[name] = ours(args.model, text, args.tokens, form)
    if args.llama_cpp:
        tools, forms = llama_tools(args.llama_cpp), Forms(source, args.forms)
        tokenizer = LLM(args.model).get_tokenizer()
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(tokenizer.decode(tokenizer.encode(text)[: args.tokens]))
            file.flush()
            for kind in THEIRS:
                progress(f"llama.cpp, {kind}")
                model = forms.gguf(kind, tools / "llama-quantize")
                found[f"llama.cpp, {kind}"] = theirs(tools / "llama-perplexity", model, Path(file.name))
    return found


def _reference() -> str:
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name] for name in sorted(topics))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--model", default="demo")
    words.add_argument("--text", type=Path)
    words.add_argument("--tokens", type=int, default=8_192, help="of the text, at most (8,192)")
    words.add_argument(
        "--llama-cpp", type=Path, metavar="VENV", help="llama.cpp's tools; the model is a GGUF"
    )
    words.add_argument(
        "--forms",
        type=Path,
        default=Path.home() / ".cache" / "pagewire" / "peers",
        help="where forms are kept",
    )
    words.add_argument("--json", type=Path, help="write every number here")
    args = words.parse_args()
    found = measured(args)
    base = found["pagewire, float32"][0]
    progress("")
    print(json.dumps(machine()))
    rows = [
        (name, f"{value:.4f}", f"{value / base - 1:+.2%}", str(windows))
        for name, (value, windows) in found.items()
    ]
    print(table(("weights", "perplexity", "against float32", "windows"), rows))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "perplexity": found}, indent=1))


if __name__ == "__main__":
    main()
