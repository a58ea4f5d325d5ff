from __future__ import annotations

import pytest
from tokenizer_files import write_sentencepiece

from pagewire.hub import resolve
from pagewire.text.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def demo() -> Tokenizer:
    """The demo model's tokenizer, from its GGUF file."""
    return load_tokenizer(resolve("demo"))


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A small tokenizer of SentencePiece's kind."""
    return load_tokenizer(write_sentencepiece(tmp_path_factory.mktemp("spm") / "spm.gguf"))
