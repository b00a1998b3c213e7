"""SentencePiece models as Meta's: the library's ids, every string back, lossy models refused."""

import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from ladderlm.errors import DataError
from ladderlm.tokenizer.base import NASTY_TEXTS
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.tokenizer.prompt import encode_prompt
from ladderlm.tokenizer.sentencepiece import SentencePieceTokenizer
from reference.pieces import train_pieces


@pytest.fixture(scope="module")
def data():
    return train_pieces()


@pytest.fixture(scope="module")
def tokenizer(data):
    return SentencePieceTokenizer(data, "tokenizer.model")


@pytest.fixture(scope="module")
def library(data):
    return sentencepiece.SentencePieceProcessor(model_proto=data)


TEXTS = st.text() | st.lists(
    st.sampled_from([" ", "▁", "the", "\n", "<s>", "</s>", "<0x0A>", "日", "\x00", "<unk>", "é"])
).map("".join)


@given(text=TEXTS)
@example(text=" ")
@example(text="▁")
@example(text=" ▁ a")
@example(text="<0x20><0xE2><0x96><0x81>")
def test_any_text_comes_back_whole(tokenizer, text):
    """D10: decode(encode(x)) == x, leading spaces and U+2581 too."""
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(tokenizer.encode(text, bos=True, eos=True)) == text.encode()


@given(text=TEXTS)
def test_no_text_yields_a_control_id(tokenizer, text):
    """D10."""
    ids = tokenizer.encode(text)
    assert not {tokenizer.bos_id, tokenizer.eos_id, 0} & set(ids)
    framed = tokenizer.encode(text, bos=True, eos=True)
    assert framed == [tokenizer.bos_id, *ids, tokenizer.eos_id]


@given(text=TEXTS.filter(lambda text: "▁" not in text))
@example(text="  two  spaces ")
@example(text="\n\t x")
def test_the_ids_are_those_of_the_library(tokenizer, library, text):
    assert tokenizer.encode(text) == library.encode(text)


def test_the_ids_and_sizes_are_meta_s(tokenizer):
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, -1)
    assert tokenizer.vocab_size == tokenizer.n_words == 400
    assert tokenizer.encode("\x00")[-1] == 3  # <0x00> follows <unk>, <s>, </s>


def test_a_continuation_keeps_the_space_of_its_first_word(tokenizer):
    whole = tokenizer.encode("the model the")
    for cut in range(1, len(whole)):
        begun, rest = tokenizer.decode(whole[:cut]), tokenizer.decode(whole[cut:], continued=True)
        assert begun + rest == "the model the"
    assert tokenizer.decode([1, *tokenizer.encode(" the")]) == " the"
    assert tokenizer.decode([]) == ""


def test_a_prompt_is_healed_and_continued_with_its_spaces(tokenizer):
    whole = tokenizer.encode("the model", bos=True)
    prompt = encode_prompt(tokenizer, "the mo")
    assert prompt.healed.startswith(b" m")
    rest = whole[len(prompt.tokens) :]
    assert tuple(whole[: len(prompt.tokens)]) == prompt.tokens
    assert "the mo" + prompt.continuation(tokenizer, rest) == "the model"
    assert encode_prompt(tokenizer, "").continuation(tokenizer, whole) == "the model"


def test_batches_encode_each_text_alone(tokenizer):
    texts = ["a b", "", " ▁", *NASTY_TEXTS]
    rows = tokenizer.encode_batch(texts)
    assert [row.tolist() for row in rows] == [tokenizer.encode(text) for text in texts]
    assert {row.dtype.name for row in rows} == {"uint32"}


@pytest.mark.parametrize("token", [-1, 400])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer, token):
    with pytest.raises(DataError, match="outside a vocabulary of 400"):
        tokenizer.decode([token])


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(DataError, match=r"lone surrogate .* at character 2"):
        tokenizer.encode("ab\ud800")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises characters"),
        ({"remove_extra_whitespaces": True, "vocab_size": 350}, "removes spaces"),
        ({"byte_fallback": False, "vocab_size": 100}, "no token for every byte"),
        ({"treat_whitespace_as_suffix": True}, "space of a word after"),
        ({"bos_id": -1}, "no <s>"),
    ],
)
def test_a_model_that_loses_text_is_refused_by_the_reason(changes, says):
    data = train_pieces(**changes)
    with pytest.raises(DataError, match=says) as caught:
        SentencePieceTokenizer(data, "other.model")
    assert "other.model" in caught.value.what
    assert "identity normalisation" in caught.value.fix


@pytest.fixture(
    scope="module",
    params=[{"add_dummy_prefix": False}, {"model_type": "unigram", "vocab_size": 300}],
)
def other(request):
    """A model with other settings that lose nothing."""
    return SentencePieceTokenizer(train_pieces(**request.param), "other.model")


@given(text=TEXTS)
def test_models_with_other_harmless_settings_work_too(other, text):
    assert other.decode(other.encode(text)) == text


def test_the_fingerprint_is_that_of_the_file(data):
    first = SentencePieceTokenizer(data, "a").fingerprint
    assert first == SentencePieceTokenizer(data, "b").fingerprint
    assert first != SentencePieceTokenizer(train_pieces(vocab_size=401), "a").fingerprint


def test_damaged_files_are_refused(data, tmp_path):
    """No cut and no noise is taken for a model, whatever the library would make of it."""
    path = tmp_path / "tokenizer.model"
    for damaged in (b"", b"\x00", data[: len(data) // 2], data[:-1], b"<html></html>", data[7:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError) as caught:
            load_tokenizer(path)
        assert str(path) in caught.value.what
