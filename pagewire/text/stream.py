"""The text of one choice as its tokens arrive: detokenised, and ended by the first stop string.

Knows one request's stop strings and token counts; knows no node and no HTTP. The state depends on the tokens
alone: a stream made anew and fed the same tokens gives the same text.
"""

from __future__ import annotations

from typing import NamedTuple

from pagewire.sampling import SamplingParams
from pagewire.text.detokenize import Detokenizer, TokenBytes
from pagewire.text.stop import StopMatcher


class TextDelta(NamedTuple):
    """What one token adds. ``text`` lags behind the tokens where half a character or the beginning of a stop
    string is held back. ``offset`` is where the token's own text begins, in characters from the start of the
    choice's text; the parts of one character share the offset of that character. ``stopped`` is the stop
    string that was found.
    """

    text: str
    stopped: str | None
    offset: int


class TextStream:
    """One choice. ``tokens`` counts those pushed, up to and with the one that completed a stop string."""

    __slots__ = ("_detokenizer", "_include", "_length", "_matcher", "_min_tokens", "tokens")

    def __init__(
        self,
        tokenizer: TokenBytes,
        params: SamplingParams,
        *,
        skip_special_tokens: bool = True,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self._detokenizer = Detokenizer(
            tokenizer, skip_special_tokens=skip_special_tokens, continues=True, shown=shown
        )
        self._matcher = StopMatcher(params.stop, include=params.include_stop_str_in_output)
        self._include = params.include_stop_str_in_output
        self._min_tokens = params.min_tokens
        self._length = 0  # characters decoded, whether released or held back
        self.tokens = 0

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the text, or None."""
        return self._matcher.found

    def push(self, token: int, *, last: bool = False, hidden: bool = False) -> TextDelta:
        """Add ``token``. ``last``: no other follows, so that nothing is held back.

        ``hidden``: it is the token that stops the choice; its text is shown only where the request asks for
        stop strings in the output. Must not be called once a stop string was found.
        """
        offset = self._length
        self.tokens += 1
        text = "" if hidden and not self._include else self._detokenizer.push(token)
        if last:
            text += self._detokenizer.flush()
        return TextDelta(self._take(text) + (self._release() if last else ""), self.stopped_by, offset)

    def finish(self) -> str:
        """What was held back, when the choice ended after a token that was not pushed as the last."""
        if self.stopped_by is not None:
            return ""
        return self._take(self._detokenizer.flush()) + self._release()

    def _take(self, text: str) -> str:
        self._length += len(text)
        return self._matcher.push(text, armed=self.tokens >= self._min_tokens)

    def _release(self) -> str:
        return "" if self.stopped_by is not None else self._matcher.flush()
