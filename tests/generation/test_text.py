"""Text that may be shown while it is written: whole characters, and nothing of a stop string."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.errors import ConfigError
from ladderlm.generation.text import TextStream
from ladderlm.tokenizer.bpe import BytePairTokenizer

BYTES = BytePairTokenizer({bytes([b]): b for b in range(256)})


def pieces_of(raw, **options):
    """Feed bytes one by one; give the pieces, the last from `finish`."""
    stream = TextStream(BYTES, **options)
    pieces = [stream.add(byte) for byte in raw]
    return [*pieces, stream.finish()], stream


def test_a_character_is_shown_when_its_last_byte_has_come():
    """G01: an emoji cut across tokens."""
    pieces, stream = pieces_of("a🦙é".encode())
    assert pieces == ["a", "", "", "", "🦙", "", "é", ""]
    assert stream.text == "a🦙é"


def test_a_character_that_is_never_finished_becomes_a_replacement():
    """G01: what ends in the middle of an emoji is still valid UTF-8."""
    pieces, stream = pieces_of("a🦙".encode()[:-1])
    assert pieces == ["a", "", "", "", "\ufffd"]
    assert stream.text == "a\ufffd"


@given(raw=st.binary(max_size=30), healed=st.binary(max_size=3))
def test_pieces_join_to_the_whole_text_decoded_at_once(raw, healed):
    """G01: any bytes at all, a NUL among them; every piece can be printed."""
    pieces, stream = pieces_of(healed + raw, healed=healed)
    assert "".join(pieces) == stream.text == raw.decode("utf-8", "replace")
    for piece in pieces:
        piece.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("one\n\ntwo", ["\n\n"], "one"),
        ("one\ntwo", ["\n\n"], "one\ntwo"),
        ("aab", ["ab"], "a"),
        ("aaab", ["aab"], "a"),
        ("abcabd", ["abd", "bca"], "a"),
        ("say STOP now", ["TOP", "STOP"], "say "),
        ("baa", ["a", "baa"], "b"),
        ("x🦙y", ["🦙"], "x"),
        ("User: hi", ["User:"], ""),
        ("almost STO", ["STOP"], "almost STO"),
    ],
)
def test_a_stop_string_ends_the_text_and_is_left_out(text, stop, shown):
    pieces, stream = pieces_of(text.encode(), stop=stop)
    assert "".join(pieces) == stream.text == shown
    assert stream.stopped == any(s in text for s in stop)


@given(
    text=st.text("ab", max_size=12),
    stop=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    cuts=st.sets(st.integers(0, 12)),
)
def test_nothing_is_shown_that_a_stop_string_would_take_back(text, stop, cuts):
    """Wherever the borders of tokens lie."""
    borders = [0, *sorted(c for c in cuts if 0 < c < len(text)), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(borders) if a < b]
    ranks = {part.encode(): i for i, part in enumerate(dict.fromkeys(parts))}
    stream = TextStream(BytePairTokenizer(ranks), stop)
    shown = ""
    for part in parts:
        shown += stream.add(ranks[part.encode()])
        assert not any(s in shown for s in stop)
        if stream.stopped:
            break
    shown += stream.finish()
    met = [(at + len(s), at) for s in stop if (at := text.find(s)) >= 0]
    assert shown == stream.text == (text[: min(met)[1]] if met else text)


def test_nothing_follows_a_stop_string():
    stream = TextStream(BYTES, ["b"])
    assert [stream.add(byte) for byte in b"abab"] == ["a", "", "", ""]
    assert stream.finish() == ""
    assert stream.stopped


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ConfigError, match="a stop string must have at least one character"):
        TextStream(BYTES, [""])
