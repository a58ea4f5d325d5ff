"""The tokenizer of a HuggingFace model folder.

Knows ``tokenizer.json``, ``tokenizer_config.json`` and where chat templates lie; leaves the encoding itself
to the ``tokenizers`` library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from pagewire.errors import ModelError
from pagewire.text.vocabulary import SPACE, Pieces, Vocabulary

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_folder(folder: Path) -> Vocabulary:
    """Raises ModelError if there is no tokenizer.json, or one that turns tokens to text in an unknown way."""
    backend = _backend(folder)
    config = _read_json(folder / "tokenizer_config.json")
    pieces, strip_space = _decoding(backend)
    _add_tokens(backend, config)
    added = backend.get_added_tokens_decoder()
    names = _names(_read_json(folder / "special_tokens_map.json") | config)
    ids = {name: backend.token_to_id(token) for name, token in names.items()}
    prefix, suffix = _around(backend)
    return Vocabulary(
        backend,
        pieces,
        {i: token.content for i, token in added.items()},
        frozenset(i for i, token in added.items() if token.special),
        prefix=prefix,
        suffix=suffix,
        bos_id=ids.get("bos_token"),
        eos_id=ids.get("eos_token"),
        strip_space=strip_space,
        names=names,
        templates=_templates(folder, config),
    )


def _backend(folder: Path) -> Backend:
    path = folder / "tokenizer.json"
    if not path.is_file():
        if (folder / "tokenizer.model").is_file():
            raise ModelError(
                f"{folder.name} has a tokenizer.model and no tokenizer.json; convert it with"
                " transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            )
        raise ModelError(f"{folder.name} has no tokenizer.json")
    try:
        backend = Backend.from_str(path.read_text("utf-8"))
    except Exception as error:  # tokenizers raises bare Exception, and no other kind, for a bad file
        raise ModelError(f"the tokenizer.json of {folder.name} cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{path.name} of {path.parent.name} is not JSON") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} of {path.parent.name} is not a JSON object")
    return value


def _decoding(backend: Backend) -> tuple[Pieces, bool]:
    """How pieces become bytes, and whether the first space of a text is the encoder's own."""
    state = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
    steps = state.get("decoders", [state])
    kinds = [step.get("type") for step in steps]
    if "ByteLevel" in kinds:
        return Pieces.BYTE_LEVEL, False
    for step in steps:
        if step.get("type") == "Metaspace" and step["replacement"] == SPACE:
            return Pieces.SENTENCEPIECE, step.get("prepend_scheme") != "never"
        if step.get("type") == "Replace" and step["pattern"].get("String") == SPACE:
            return Pieces.SENTENCEPIECE, any(s.get("type") == "Strip" and s["start"] for s in steps)
    raise ModelError(f"the tokenizer decodes by {kinds}; known are byte-level and SentencePiece BPE")


def _add_tokens(backend: Backend, config: dict[str, Any]) -> None:
    """Add what only tokenizer_config.json lists. Their ids must come out as it says."""
    for key, spec in sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0])):
        known = backend.get_added_tokens_decoder().get(int(key))
        if known is not None and known.content == spec["content"]:
            continue
        flags = {k: v for k, v in spec.items() if k in ("lstrip", "rstrip", "single_word", "normalized")}
        backend.add_tokens([AddedToken(spec["content"], special=bool(spec.get("special")), **flags)])
        if backend.token_to_id(spec["content"]) != int(key):
            raise ModelError(f"tokenizer_config.json adds {spec['content']!r} as token {key}, which is taken")


def _names(config: dict[str, Any]) -> dict[str, str]:
    """The special tokens by role. A token is a string, or an object with ``content``."""
    names = {}
    for name in _NAMES:
        value = config.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            names[name] = content
    return names


def _around(backend: Backend) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the post-processor puts before and after a prompt.

    ``add_bos_token`` in tokenizer_config.json does not count beside a tokenizer.json, as in transformers 5.
    """
    sample = backend.encode("a", add_special_tokens=True)
    inner = [i for i, special in enumerate(sample.special_tokens_mask) if not special]
    if not inner:
        return (), ()
    return tuple(sample.ids[: inner[0]]), tuple(sample.ids[inner[-1] + 1 :])


def _templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Chat templates by name. A file outranks the config, as in transformers."""
    given = config.get("chat_template")
    if isinstance(given, list):
        templates = {entry["name"]: entry["template"] for entry in given}
    else:
        templates = {"default": given} if isinstance(given, str) else {}
    for path in sorted(folder.glob("additional_chat_templates/*.jinja")):
        templates[path.stem] = path.read_text("utf-8")
    if (path := folder / "chat_template.jinja").is_file():
        templates["default"] = path.read_text("utf-8")
    return templates
