"""Stop strings: against a naive search of the whole text, and however the text is cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.text.stop import StopMatcher

STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4).map(tuple)
PIECES = st.lists(st.text("abc", max_size=3), max_size=12)


def run(pieces: list[str], stops: tuple[str, ...], **options: bool) -> tuple[str, str | None]:
    matcher, text = StopMatcher(stops, **options), ""
    for piece in pieces:
        text += matcher.push(piece)
        if matcher.found is not None:
            return text, matcher.found
    return text + matcher.flush(), None


def naive(text: str, stops: tuple[str, ...], include: bool) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            stop = max(done, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@settings(deadline=None, max_examples=500)
@given(PIECES, STOPS, st.booleans())
def test_agrees_with_a_search_of_the_whole_text(
    pieces: list[str], stops: tuple[str, ...], include: bool
) -> None:
    assert run(pieces, stops, include=include) == naive("".join(pieces), stops, include)


@settings(deadline=None, max_examples=300)
@given(st.text("abc", max_size=12), STOPS)
def test_holds_back_exactly_what_may_still_become_a_stop_string(text: str, stops: tuple[str, ...]) -> None:
    matcher, shown = StopMatcher(stops), ""
    for end, char in enumerate(text, 1):
        shown += matcher.push(char)
        if matcher.found is not None:
            return
        seen = text[:end]
        beginnings = [n for stop in stops for n in range(1, len(stop)) if seen.endswith(stop[:n])]
        assert shown == seen[: end - max(beginnings, default=0)]


def test_of_two_that_end_together_the_earlier_begun_counts() -> None:
    assert run(["xab"], ("b", "ab")) == ("x", "ab")


def test_the_first_to_be_complete_ends_the_text_whatever_came_in_one_piece() -> None:
    assert run(["abcd"], ("abcd", "bc")) == run(list("abcd"), ("abcd", "bc")) == ("a", "bc")


def test_spans_pieces_of_characters_beyond_ascii() -> None:
    assert run(["fin", " 終", "わ", "り!"], ("終わり",)) == ("fin ", "終わり")


def test_include_keeps_the_stop_string_and_drops_the_rest() -> None:
    assert run(["a STO", "P b"], ("STOP",), include=True) == ("a STOP", "STOP")


def test_unarmed_passes_over_a_complete_stop_string() -> None:
    matcher = StopMatcher(("ab",))
    assert matcher.push("xaby", armed=False) == "xaby"
    assert matcher.found is None


def test_a_stop_string_that_began_unarmed_counts_when_it_ends_armed() -> None:
    matcher = StopMatcher(("abcd", "bc"))
    shown = matcher.push("xabc", armed=False)
    assert (shown + matcher.push("d"), matcher.found) == ("x", "abcd")


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopMatcher(()).push("abc") == "abc"


def test_a_false_start_is_given_out_at_once() -> None:
    matcher = StopMatcher(("###",))
    assert [matcher.push(piece) for piece in ("a#", "#", "b")] == ["a", "", "##b"]
