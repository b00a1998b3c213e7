"""LLaMA 3's rank files: Meta's control ids, tiktoken's ids, damage found by its line."""

import base64

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.errors import DataError
from ladderlm.tokenizer.base import NASTY_TEXTS
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.tokenizer.split import SPLIT_PATTERN
from ladderlm.tokenizer.tiktoken_file import load_tiktoken, looks_like_tiktoken


def spell(ranks):
    """Write a rank file."""
    lines = [base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items()]
    return b"\n".join(lines) + b"\n"


@pytest.fixture(scope="module")
def data(tiny_tokenizer):
    return spell(tiny_tokenizer.ranks)


@pytest.fixture(scope="module")
def tokenizer(data):
    return load_tiktoken(data, "tokenizer.model")


def test_the_control_tokens_follow_the_ranks_in_meta_s_order(tokenizer):
    n = 318
    assert tokenizer.vocab_size == n + 256
    expected = {
        "<|begin_of_text|>": 0,
        "<|end_of_text|>": 1,
        "<|reserved_special_token_0|>": 2,
        "<|reserved_special_token_3|>": 5,
        "<|start_header_id|>": 6,
        "<|end_header_id|>": 7,
        "<|reserved_special_token_4|>": 8,
        "<|eot_id|>": 9,
        "<|reserved_special_token_5|>": 10,
        "<|reserved_special_token_250|>": 255,
    }
    assert {name: tokenizer.controls[name] - n for name in expected} == expected
    assert sorted(tokenizer.controls.values()) == list(range(n, n + 256))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (n, n + 1, -1)


@given(text=st.text() | st.sampled_from(NASTY_TEXTS))
def test_any_text_comes_back_and_gives_no_control_id(tokenizer, text):
    """D10."""
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(token < tokenizer.bos_id for token in ids)


def test_control_words_in_a_text_are_plain_text(tokenizer):
    """D10: all 256."""
    text = "".join(tokenizer.controls)
    ids = tokenizer.encode(text)
    assert max(ids) < tokenizer.bos_id
    assert tokenizer.decode(ids) == text


@given(text=st.text())
def test_the_ids_are_those_of_tiktoken(tokenizer, tiny_tokenizer, text):
    other = tiktoken.Encoding(
        "t", pat_str=SPLIT_PATTERN, mergeable_ranks=tiny_tokenizer.ranks, special_tokens={}
    )
    assert tokenizer.encode(text) == other.encode_ordinary(text) == tiny_tokenizer.encode(text)


def test_the_fingerprint_is_not_that_of_our_own_tokenizer_with_these_ranks(
    tokenizer, tiny_tokenizer
):
    """Equal ranks, other control ids."""
    assert tokenizer.fingerprint != tiny_tokenizer.fingerprint


def test_a_rank_file_is_told_from_others(data):
    assert looks_like_tiktoken(data)
    assert looks_like_tiktoken(data.replace(b"\n", b"\r\n"))
    for other in (b"", b"\n", b"\x0a\x0e\n\x05<unk>", b"{}", b"IQ== x\n", b"!!!! 0\n", b"IQ==\n"):
        assert not looks_like_tiktoken(other)


def test_damaged_files_are_refused_by_line_or_rule(data, tmp_path):
    lines = data.splitlines(keepends=True)
    cases = {
        "tokenizer.model:5": [*lines[:4], b"no base64! 4\n", *lines[5:]],
        "tokenizer.model:6": [*lines[:5], b"IQ== five\n", *lines[6:]],
        "tokenizer.model:318": [*lines[:-1], lines[-1][:-5] + b"\n"],
        "not a complete rank file": lines[:-2] + lines[-1:],
        "complete rank file": [*lines, lines[0]],
        "complete": lines[:200],
    }
    for says, damaged in cases.items():
        (tmp_path / "tokenizer.model").write_bytes(b"".join(damaged))
        with pytest.raises(DataError, match=says):
            load_tokenizer(tmp_path)
