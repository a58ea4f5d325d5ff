"""The text of one choice: detokeniser and stop strings together, token by token."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.sampling import SamplingParams
from pagewire.text.stream import TextDelta, TextStream
from pagewire.text.tokenizer import Tokenizer

EOS = 2


def deltas(
    tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = (), **params: int
) -> list[TextDelta]:
    stream = TextStream(tokenizer, SamplingParams(stop=stop, max_tokens=None, **params))
    out: list[TextDelta] = []
    for at, token in enumerate(ids, 1):
        out.append(stream.push(token, last=at == len(ids)))
        if out[-1].stopped is not None:
            break
    return out


def text_of(many: list[TextDelta]) -> str:
    return "".join(delta.text for delta in many)


@settings(deadline=None, max_examples=200)
@given(
    ids=st.lists(st.integers(0, 400), max_size=30),
    stop=st.lists(st.text("ab \ufffd1", min_size=1, max_size=3), max_size=3).map(tuple),
)
def test_text_is_the_decoded_text_cut_at_the_first_stop_string(
    demo: Tokenizer, ids: list[int], stop: tuple[str, ...]
) -> None:
    whole = demo.decode(ids)
    ends = [(whole.find(s) + len(s), whole.find(s)) for s in stop if s in whole]
    assert text_of(deltas(demo, ids, stop)) == whole[: min(ends)[1] if ends else None]


def test_offset_is_where_the_token_begins(demo: Tokenizer) -> None:
    ids = demo.encode("Hello world, café")
    whole = demo.decode(ids)
    many = deltas(demo, ids)
    assert [whole[d.offset :].startswith(demo.token_text(i)) for d, i in zip(many, ids, strict=True)] == [
        True
    ] * len(ids)


def test_parts_of_one_character_share_its_offset(demo: Tokenizer) -> None:
    ids = demo.encode("🦩")
    assert [delta.offset for delta in deltas(demo, [*demo.encode("ab"), *ids])][-len(ids) :] == [2] * len(ids)


def test_offset_runs_on_while_text_is_held_back(demo: Tokenizer) -> None:
    ids = demo.encode("a # b")
    assert [(d.text, d.offset) for d in deltas(demo, ids, (" # c",))] == [("a", 0), ("", 1), (" # b", 3)]


def test_counts_tokens_up_to_the_one_that_completed_the_stop_string(demo: Tokenizer) -> None:
    stream = TextStream(demo, SamplingParams(stop=(" jumps over",)))
    ids = demo.encode("The fox jumps over the dog")
    while stream.stopped_by is None:
        stream.push(ids[stream.tokens])
    assert (stream.tokens, stream.stopped_by) == (4, " jumps over")


def test_min_tokens_passes_over_stop_strings(demo: Tokenizer) -> None:
    ids = demo.encode("one, two, three, four")
    assert text_of(deltas(demo, ids, (",",), min_tokens=4)) == "one, two"


def test_the_token_that_stops_is_not_shown(demo: Tokenizer) -> None:
    stream = TextStream(demo, SamplingParams())
    (world,) = demo.encode(" world")
    assert stream.push(world, last=True, hidden=True).text == ""


def test_the_token_that_stops_is_shown_on_request(demo: Tokenizer) -> None:
    stream = TextStream(demo, SamplingParams(include_stop_str_in_output=True))
    (world,) = demo.encode(" world")
    assert stream.push(world, last=True, hidden=True).text == " world"


def test_special_tokens_are_shown_on_request(demo: Tokenizer) -> None:
    stream = TextStream(demo, SamplingParams(), skip_special_tokens=False)
    assert stream.push(EOS).text == "<|im_end|>"


def test_finish_gives_what_was_held_back(demo: Tokenizer) -> None:
    stream = TextStream(demo, SamplingParams(stop=("Hello there",)))
    assert (stream.push(19556).text, stream.finish()) == ("", "Hello")


def test_finish_may_complete_a_stop_string(demo: Tokenizer) -> None:
    stream = TextStream(demo, SamplingParams(stop=("\ufffd",)))
    stream.push(demo.encode("🦩")[0])
    assert (stream.finish(), stream.stopped_by) == ("", "\ufffd")


def test_nothing_follows_a_stop_string(demo: Tokenizer) -> None:
    stream = TextStream(demo, SamplingParams(stop=("Hell",)))
    assert stream.push(19556) == TextDelta("", "Hell", 0)
    assert stream.finish() == ""


def test_a_stream_fed_the_same_tokens_goes_on_as_the_first(demo: Tokenizer) -> None:
    ids, params = demo.encode("Größe 🦩 # end"), SamplingParams(stop=(" # end",))
    for cut in range(len(ids)):
        streams = TextStream(demo, params), TextStream(demo, params)
        for token in ids[:cut]:
            assert streams[0].push(token) == streams[1].push(token)
        assert streams[0].push(ids[cut]) == streams[1].push(ids[cut])


def test_a_completion_keeps_its_leading_space(spm: Tokenizer) -> None:
    ids = spm.encode("cat", add_special_tokens=False)
    assert text_of(deltas(spm, ids)) == " cat"
