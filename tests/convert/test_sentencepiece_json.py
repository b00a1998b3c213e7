"""SentencePiece models as tokenizer.json: the same ids, or a refusal."""

import importlib.util
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.convert.hf import read_hf, write_hf
from ladderlm.convert.sentencepiece_json import sentencepiece_json
from ladderlm.errors import DataError
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.tokenizer.sentencepiece import SentencePieceTokenizer
from reference.foreign import write_hf_folder
from reference.hand_made import make_model
from reference.pieces import train_pieces


def library_of(value):
    from tokenizers import Tokenizer

    library = Tokenizer.from_str(json.dumps(value))
    library.encode_special_tokens = True
    return library


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    path.write_bytes(train_pieces())
    return path


@pytest.fixture(scope="module")
def pair(model_file):
    ours = SentencePieceTokenizer(model_file.read_bytes(), "tokenizer.model")
    return ours, library_of(sentencepiece_json(model_file)[0])


TEXTS = st.text() | st.lists(
    st.sampled_from([" ", "the", "loss", "\n", "    ", "<s>", "<0x0A>", "\u65e5", "\x00", "self"])
).map("".join)


@given(text=TEXTS)
def test_random_texts_get_the_same_ids_and_come_back(pair, text):
    ours, library = pair
    text = text.replace("\u2581", "")
    ids = library.encode(text, add_special_tokens=False).ids
    assert ids == ours.encode(text)
    assert library.decode(ids) == text


def test_a_model_without_a_space_in_front_is_converted_too(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_pieces(add_dummy_prefix=False))
    ours, library = load_tokenizer(path), library_of(sentencepiece_json(path)[0])
    rng = random.Random(2)
    for _ in range(300):
        text = "".join(rng.choices(["the", " ", "loss", "x", "\n", "\u00e9"], k=12))
        assert library.encode(text, add_special_tokens=False).ids == ours.encode(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "unigram", "vocab_size": 300},
        {"user_defined_symbols": ["return", "  "], "vocab_size": 390},
    ],
)
def test_a_model_that_is_no_plain_bpe_is_refused(changes, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_pieces(**changes))
    with pytest.raises(DataError, match="would get other ids"):
        sentencepiece_json(path)


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers [interop]"
)
def test_transformers_opens_what_is_exported(model_file, tmp_path):
    from transformers import AutoTokenizer

    ours = load_tokenizer(model_file)
    source = read_hf(write_hf_folder(tmp_path / "in", make_model(vocab_size=ours.vocab_size)))
    write_hf(replace(source, tokenizer=model_file), tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "def f(x):\n    return  the loss # \u65e5\u672c \U0001f389"
    assert theirs(text)["input_ids"] == ours.encode(text, bos=True)
    assert theirs.decode(ours.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
    assert load_tokenizer(tmp_path / "out").fingerprint == ours.fingerprint


def test_without_the_same_ids_only_the_model_is_exported(tmp_path, caplog):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_pieces(model_type="unigram", vocab_size=300))
    source = read_hf(write_hf_folder(tmp_path / "in", make_model(vocab_size=300)))
    write_hf(replace(source, tokenizer=path), tmp_path / "out")
    assert not (tmp_path / "out/tokenizer.json").exists()
    assert (tmp_path / "out/tokenizer.model").read_bytes() == path.read_bytes()
    assert "would get other ids" in caplog.text
