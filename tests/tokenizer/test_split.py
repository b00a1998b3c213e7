"""The split pattern by hand, and the cutting out of giant runs of white space."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.split import cut_long_spaces, split_reference

CHARS = [
    " ",
    "\t",
    "\u3000",
    "\x85",
    "\n",
    "\r",
    "x",
    "!",
    "\x1c",
    "\x1f",
    "é",
    "\u0301",
    "1",
    "'s",
]
RUNS = st.lists(st.sampled_from(CHARS)).map("".join)
PLAIN = BytePairTokenizer({bytes([byte]): byte for byte in range(256)} | {b"  ": 256, b"\n ": 257})


@given(text=RUNS | st.text(" \n\r\tx!é", max_size=30), limit=st.integers(2, 4))
@example(text="a  \t b", limit=2)
@example(text="!\n   ", limit=3)
@example(text="   \nb", limit=2)
@example(text="é\n\n  \n  é", limit=2)
@example(text="x\n\n  \n  é", limit=2)
@example(text="\n\n", limit=2)
def test_cutting_long_spaces_out_leaves_the_pieces_as_they_are(text, limit):
    """D09: the ids of a giant run are those of the rule."""
    parts = cut_long_spaces(text, limit)
    assert "".join(part for part, _ in parts) == text
    pieces = [[part] if whole else list(split_reference(part)) for part, whole in parts]
    assert [piece for part in pieces for piece in part] == list(split_reference(text))


@given(text=st.text(" \n\tx!é", max_size=60), limit=st.integers(2, 6))
def test_the_ids_of_cut_texts_are_those_of_whole_ones(text, limit):
    coder = PLAIN._tiktoken
    ids = []
    for part, whole in cut_long_spaces(text, limit):
        ids += coder._encode_single_piece(part) if whole else coder.encode_ordinary(part)
    assert ids == coder.encode_ordinary(text)


@pytest.mark.parametrize("end", ["x", "é", "!", ""])
def test_every_long_run_is_found_wherever_it_lies(end):
    for before in range(1, 25):
        text = "y" * before + " " * 11 + end * 30
        whole = [part for part, whole in cut_long_spaces(text, 10) if whole]
        assert whole == [" " * (11 - bool(end))]
    assert cut_long_spaces(" " * 8 + "x", 10) == [(" " * 8 + "x", False)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("run", [" ", "\t", " \n", "\n "])
def test_many_runs_below_the_overflow_take_no_quadratic_time(run):
    """D09: a megabyte of runs of some thousand spaces took minutes."""
    text = (run * 3000 + "x") * (200 // len(run))
    assert PLAIN.decode(PLAIN.encode(text)) == text
