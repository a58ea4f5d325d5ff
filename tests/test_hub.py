"""Names of models to files. The hub is a cache folder written here; nothing touches the network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from pagewire import hub
from pagewire.errors import ModelError
from pagewire.hub import DEMO_NAME, ModelSource, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, offline."""
    folder = tmp_path / "hf" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def put_snapshot(cache: Path, repo: str, *names: str) -> Path:
    """Files of one revision, laid out as huggingface_hub caches them."""
    home = cache / ("models--" + repo.replace("/", "--"))
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    for name in names:
        (snapshot / name).write_text("{}")
    return snapshot


def model_folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


def test_demo() -> None:
    source = resolve("demo")
    assert (source.name, source.is_gguf, source.path.is_file()) == (DEMO_NAME, True, True)


def test_demo_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install"):
        resolve("demo")


def test_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.Q4_0.gguf"
    path.touch()
    assert resolve(str(path)) == ModelSource("tiny.Q4_0", path)


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model_folder(tmp_path / "tiny")
    assert resolve("~/tiny") == ModelSource("tiny", tmp_path / "tiny")


def test_folder_is_called_by_its_real_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_folder(tmp_path / "tiny"))
    assert resolve(".").name == "tiny"


def test_hub_id_from_the_cache(cache: Path) -> None:
    snapshot = put_snapshot(cache, "org/tiny", "config.json", "model.safetensors")
    assert resolve("org/tiny") == ModelSource("org/tiny", snapshot)


def test_hub_id_without_weights_will_do_offline(cache: Path) -> None:
    snapshot = put_snapshot(cache, "org/tiny", "config.json", "tokenizer.json")
    assert resolve("org/tiny").path == snapshot


def test_hub_id_without_weights_is_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_snapshot(cache, "org/tiny", "config.json", "tokenizer.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    whole = model_folder(cache.parent / "whole")
    monkeypatch.setattr(hub, "_downloaded", lambda repo: whole)
    assert resolve("org/tiny").path == whole


def refuse(error: Exception) -> SimpleNamespace:
    """A hub that answers each download with ``error`` and has nothing cached."""

    def download(repo: str, local_files_only: bool = False, **patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("not cached") if local_files_only else error

    return SimpleNamespace(download=download)


def hub_error(kind: str) -> Exception:
    """An HTTP error of the hub, without the response that its constructor asks for."""
    cls = getattr(huggingface_hub.errors, kind)
    error: Exception = cls.__new__(cls)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_error("GatedRepoError"), "gated"),
        (hub_error("RepositoryNotFoundError"), "no model org/tiny"),
        (hub_error("HTTPError"), r"could not be downloaded from the hub \(HTTPError\)"),
        (ConnectionError("refused"), r"could not be downloaded from the hub \(ConnectionError\)"),
    ],
)
def test_why_a_download_failed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse(error).download)
    with pytest.raises(ModelError, match=message):
        resolve("org/tiny")


def test_repository_of_gguf_files(cache: Path) -> None:
    put_snapshot(cache, "org/tiny-GGUF", "README.json")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve("org/tiny-GGUF")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("missing.gguf", "no such GGUF file"),
        ("./missing", "neither a model folder"),
        ("a/b/c", "neither a model folder"),
        ("org/absent", "not in the local hub cache"),
        ("absent", "not in the local hub cache"),
        ("not a name!", "nor a valid hub id"),
        ("", "name is empty"),
    ],
)
def test_each_failure_is_one_clear_line(cache: Path, model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        resolve(model)
    assert "\n" not in str(caught.value)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve(str(tmp_path))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.bin").touch()
    with pytest.raises(ModelError, match="neither a model folder"):
        resolve(str(tmp_path / "x.bin"))
