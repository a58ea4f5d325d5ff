"""One model in the form that each peer reads it fastest in. Knows files; knows nothing of servers.

Made once and kept: a HuggingFace folder in bfloat16 (dequantised, if the model is a GGUF file), the same with
int8 weights in the layout of compressed-tensors (int8 activations, one scale a token, are its reader's
business), GGUF files in other formats by llama.cpp's own tool, and OpenVINO's int8 by optimum-intel.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import progress
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from pagewire.engine.weights import gguf_file
from pagewire.gguf_config import config_json
from pagewire.hub import ModelSource
from pagewire.model_config import load_config

W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


@dataclass(frozen=True, slots=True)
class Forms:
    """Each form is made when it is first asked for."""

    source: ModelSource
    folder: Path

    def hf(self) -> Path:
        if not self.source.is_gguf:
            return self.source.path
        return self._made("hf", self._write_hf)

    def w8a8(self) -> Path:
        return self._made("w8a8", self._write_w8a8)

    def openvino(self, optimum_cli: Path) -> Path:
        def export(out: Path) -> None:
            words = ["export", "openvino", "--model", str(self.hf()), "--task", "text-generation-with-past"]
            _run([str(optimum_cli), *words, "--weight-format", "int8", str(out)], out)

        return self._made("openvino-int8", export)

    def gguf(self, kind: str, quantize: Path) -> Path:
        """``kind``: "as-is", or llama.cpp's name of a format, such as "Q4_0"."""
        if not self.source.is_gguf:
            raise SystemExit("llama.cpp needs a model that is a GGUF file")
        if kind == "as-is":
            return self.source.path

        def requantise(out: Path) -> None:
            _run([str(quantize), "--allow-requantize", str(self.source.path), str(out), kind], out)

        return self._made(f"{self.source.path.stem}-{kind}.gguf", requantise)

    def _made(self, name: str, write: Callable[[Path], None]) -> Path:
        """Written aside first: what was left half done is not taken for the whole."""
        out, part = self.folder / name, self.folder / f"part-{name}"
        if not out.exists():
            progress(f"making {out}")
            _remove(part)
            self.folder.mkdir(parents=True, exist_ok=True)
            write(part)
            part.rename(out)
        return out

    def _write_hf(self, out: Path) -> None:
        path = self.source.path
        out.mkdir()
        config = config_json(path) | {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
        config["model_type"] = config["architectures"][0].removesuffix("ForCausalLM").lower()
        (out / "config.json").write_text(json.dumps(config, indent=1))
        tensors = gguf_file.tensors(path, load_config(self.source))
        plain = {name: t.to(torch.bfloat16) for name, t in tensors if isinstance(t, Tensor)}  # all are
        save_file(plain, out / "model.safetensors", {"format": "pt"})
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(out)

    def _write_w8a8(self, out: Path) -> None:
        shutil.copytree(self.hf(), out, ignore=shutil.ignore_patterns("*.safetensors*"))
        found: dict[str, Tensor] = {}
        for name, tensor in _tensors(self.hf()):
            if is_linear(name):
                found[name], found[f"{name}_scale"] = per_channel_int8(tensor)
            else:
                found[name] = tensor
        save_file(found, out / "model.safetensors", {"format": "pt"})
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps(config | {"quantization_config": W8A8}, indent=1))


def is_linear(name: str) -> bool:
    return name.endswith("_proj.weight")


def per_channel_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] -> int8 of the same shape and float32 scales [out, 1], symmetric."""
    values = weight.float()
    scale = values.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
    return (values / scale).round().clamp(-127, 127).to(torch.int8), scale


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                yield name, file.get_tensor(name)


def _run(command: list[str], out: Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        _remove(out)
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
