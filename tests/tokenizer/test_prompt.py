"""Prompts whose last token is taken back and drawn again, longer or the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.prompt import EncodedPrompt, encode_prompt
from ladderlm.tokenizer.train import train_bpe

CODE = ["def name(self):\n    return self.name\n\n\ndef other(x):\n    return x\n"] * 3
ACCENTS = ["déjà vu, été, naïve café — ¿qué? 日本 日本語 日記\n"] * 4
WORDS = train_bpe(CODE + ACCENTS, 315)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.lists(
        st.sampled_from(["def ", "self", "ret", "\n    ", "é", "日", "本", "-", " "]), max_size=6
    ).map("".join),
)


def bytes_of(prompt, new):
    """Return the bytes that a prompt and its continuation stand for."""
    return WORDS.decode_bytes([*prompt.tokens, *new])


def test_an_empty_prompt_is_bos_alone_and_anything_may_follow():
    """G01: the unconditional prompt."""
    assert encode_prompt(WORDS, "") == EncodedPrompt("", (WORDS.bos_id,), b"", None)
    assert encode_prompt(WORDS, "").continuation(WORDS, WORDS.encode("déjà")) == "déjà"


def test_the_space_that_ends_a_prompt_becomes_part_of_the_next_word():
    prompt = encode_prompt(WORDS, "def ")
    assert prompt.healed == b" "
    assert bytes_of(prompt, []) == b"def"
    words = {WORDS.decode([token]) for token in prompt.first_ids}
    assert " " in words
    assert " café" in words
    assert all(word.startswith(" ") for word in words)


@given(text=TEXTS, data=st.data())
def test_whatever_comes_first_the_continuation_begins_where_the_prompt_ends(text, data):
    prompt = encode_prompt(WORDS, text)
    assert prompt.tokens[0] == WORDS.bos_id
    assert WORDS.eos_id not in prompt.tokens
    any_id = st.integers(0, WORDS.vocab_size - 1)
    first = data.draw(st.sampled_from(prompt.first_ids) if prompt.first_ids else any_id)
    new = [first, *data.draw(st.lists(any_id, max_size=4))]
    whole = bytes_of(prompt, new)
    assert whole.startswith(text.encode())
    more = whole[len(text.encode()) :]
    assert prompt.continuation(WORDS, new) == more.decode("utf-8", "replace")


@given(text=TEXTS)
def test_what_may_come_first_is_all_that_begins_with_the_bytes_taken_back(text):
    prompt = encode_prompt(WORDS, text)
    ids = WORDS.encode(text, bos=True)
    if prompt.first_ids is None:
        assert prompt.healed == b""
        assert list(prompt.tokens) == ids
    else:
        assert [*prompt.tokens, ids[-1]] == ids
        assert prompt.healed == WORDS.decode_bytes(ids[-1:])
        whole = range(WORDS.vocab_size)
        fitting = {i for i in whole if WORDS.decode_bytes([i]).startswith(prompt.healed)}
        assert set(prompt.first_ids) == fitting > {ids[-1]}
        assert not fitting & {WORDS.bos_id, WORDS.eos_id}  # an end would cut the prompt itself


def test_a_token_that_begins_no_other_stays():
    longest = max(WORDS.ranks, key=len).decode()
    prompt = encode_prompt(WORDS, longest)
    assert prompt.first_ids is None
    assert prompt.tokens == (WORDS.bos_id, WORDS.ranks[longest.encode()])


@pytest.mark.parametrize("text", ["é", "caf\u00e9", "日", "日本", "👩‍👩‍👧", "e\u0301", "a👍"])
def test_characters_of_many_bytes_are_never_cut_in_two(text):
    """G01: the healed token may be one byte of a character."""
    prompt = encode_prompt(WORDS, text)
    for first in prompt.first_ids or WORDS.encode("x"):
        assert bytes_of(prompt, [first]).startswith(text.encode())
    nothing_new = WORDS.encode(text)[-1:] if prompt.healed else []
    assert prompt.continuation(WORDS, nothing_new) == ""
    assert prompt.continuation(WORDS, [*nothing_new, *WORDS.encode("日é")]) == "日é"


def test_a_character_that_is_broken_off_shows_as_a_replacement_not_as_an_error():
    half = WORDS.ranks["é".encode()[:1]]
    assert encode_prompt(WORDS, "").continuation(WORDS, [half]) == "\ufffd"


@pytest.mark.parametrize("n_longest", [1, 2, 3, 5, 8])
def test_a_prompt_longer_than_the_room_keeps_bos_and_its_end(n_longest):
    """G01: a prompt that fills the context."""
    text = "def name(self):\n    return self.name + é"
    ids = WORDS.encode(text, bos=True)
    assert len(ids) > 8
    prompt = encode_prompt(WORDS, text, n_longest)
    kept = list(prompt.tokens) + ([ids[-1]] if prompt.healed else [])
    assert kept == [WORDS.bos_id, *ids[len(ids) - n_longest + 1 :]]
    assert len(prompt.tokens) <= n_longest
    assert prompt.text == text
    new = [prompt.first_ids[-1] if prompt.first_ids else 65]
    assert bytes_of(prompt, new).startswith(WORDS.decode_bytes(kept))


def test_a_prompt_that_fits_is_not_cut():
    ids = WORDS.encode("def name", bos=True)
    assert encode_prompt(WORDS, "def name", len(ids)) == encode_prompt(WORDS, "def name")


@pytest.mark.parametrize("text", ["<|begin_of_text|>", "<|end_of_text|>", "x<|end_of_text|>"])
def test_names_of_control_tokens_are_plain_text(text):
    """D10: a prompt cannot smuggle a control token in."""
    prompt = encode_prompt(WORDS, text)
    assert prompt.tokens.count(WORDS.bos_id) == 1
    assert WORDS.eos_id not in prompt.tokens
    assert bytes_of(prompt, []) + prompt.healed == text.encode()


def test_a_vocabulary_of_bytes_alone_has_nothing_to_heal():
    plain = BytePairTokenizer({bytes([byte]): byte for byte in range(256)})
    prompt = encode_prompt(plain, "def é")
    assert prompt.tokens == (plain.bos_id, *"def é".encode())
    assert prompt.first_ids is None


@pytest.mark.parametrize("text", ["", "def ", "def name", "é"])
def test_without_healing_the_tokens_are_those_of_the_text(text):
    """So that other programs can be asked for the same continuation."""
    assert encode_prompt(WORDS, text, heal=False) == EncodedPrompt(
        text, tuple(WORDS.encode(text, bos=True)), b"", None
    )
