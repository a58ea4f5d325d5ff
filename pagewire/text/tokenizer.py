"""Text to token ids and back.

Knows one model's vocabulary; knows no chat, no stop string and no sampling. Loads neither torch nor
transformers, so that the router starts fast and without them.
"""

from __future__ import annotations

from collections.abc import Iterable

from pagewire.errors import RequestError
from pagewire.hub import ModelSource
from pagewire.text.detokenize import Detokenizer
from pagewire.text.gguf_vocabulary import read_gguf
from pagewire.text.hf_vocabulary import read_folder
from pagewire.text.vocabulary import Vocabulary, piece_bytes


def load_tokenizer(source: ModelSource) -> Tokenizer:
    """The tokenizer of a folder or GGUF file. Raises ModelError."""
    return Tokenizer(read_gguf(source.path) if source.is_gguf else read_folder(source.path))


class Tokenizer:
    """``vocab_size`` counts the ids that have a piece; a model may have more, which stand for no text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._backend = vocabulary.backend
        self._bytes: dict[int, bytes] = {}
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.special_ids = vocabulary.special
        self.special_names = vocabulary.names
        self.chat_templates = vocabulary.templates
        self.strip_space = vocabulary.strip_space

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``. Special tokens written out in it become those tokens, as in transformers.

        ``add_special_tokens`` puts around it what the model wants around a prompt; a rendered chat already
        has that. Raises RequestError if ``text`` has half of a surrogate pair and so is no Unicode text.
        """
        try:
            ids = self._backend.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise RequestError("the text is not valid Unicode") from error
        if not add_special_tokens:
            return ids
        return [*self._vocabulary.prefix, *ids, *self._vocabulary.suffix]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ``ids``: their bytes as UTF-8, with U+FFFD where that is not valid.

        This is what transformers gives with ``clean_up_tokenization_spaces=False``, except that an invalid
        run of SentencePiece bytes keeps its valid characters. Ids without a piece stand for nothing.
        """
        detokenizer = Detokenizer(self, skip_special_tokens=skip_special_tokens)
        return "".join([detokenizer.push(token) for token in ids]) + detokenizer.flush()

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, which need not be valid UTF-8; b"" if the id has no piece."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._make_bytes(token)
        return known

    def token_text(self, token: int) -> str:
        """One token for people to read: its text, with U+FFFD for a part of a character."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def _make_bytes(self, token: int) -> bytes:
        added = self._vocabulary.added.get(token)
        if added is not None:
            return added.encode()
        piece = self._backend.id_to_token(token) if 0 <= token < 1 << 32 else None
        return b"" if piece is None else piece_bytes(piece, self._vocabulary.pieces)
