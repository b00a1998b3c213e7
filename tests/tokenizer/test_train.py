"""Learning a vocabulary: its bounds, its order, and the proof that encoders agree."""

import json

import pytest

from builders import make_records
from ladderlm.errors import ConfigError, DataError
from ladderlm.files import sha256_file
from ladderlm.tokenizer.base import NASTY_TEXTS
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.train import prove_identical, save_tokenizer, train_bpe

TEXTS = [record["text"] for record in make_records(40, seed=3)]


@pytest.mark.parametrize("vocab_size", [-1, 0, 257, 2**20 + 1, 2**40])
def test_a_vocabulary_out_of_bounds_is_refused_with_the_bounds(vocab_size):
    with pytest.raises(ConfigError, match="between 258 and 1048576") as caught:
        train_bpe(TEXTS, vocab_size)
    assert str(vocab_size) in caught.value.what


@pytest.mark.parametrize("texts", [[], [""], ["ab"], ["aaaa bbbb"]])
def test_a_text_too_poor_for_the_vocabulary_is_refused_with_the_size_that_works(texts):
    with pytest.raises(DataError, match="the text yields only") as caught:
        train_bpe(texts, 400)
    possible = int(caught.value.fix.split()[-1])
    assert train_bpe(texts, possible).vocab_size == possible


def test_the_smallest_vocabulary_is_bytes_and_two_controls():
    tokenizer = train_bpe(TEXTS, 258)
    assert tokenizer.ranks == {bytes([byte]): tokenizer.ranks[bytes([byte])] for byte in range(256)}
    assert (tokenizer.bos_id, tokenizer.eos_id) == (256, 257)
    prove_identical(tokenizer, TEXTS[:3])


def test_bytes_come_first_and_every_merge_joins_two_earlier_tokens():
    tokenizer = train_bpe(TEXTS, 300)
    words = sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
    assert sorted(words[:256]) == [bytes([byte]) for byte in range(256)]
    for rank, word in enumerate(words[256:], start=256):
        halves = [(word[:i], word[i:]) for i in range(1, len(word))]
        ranks = [(tokenizer.ranks.get(a, rank), tokenizer.ranks.get(b, rank)) for a, b in halves]
        assert any(max(pair) < rank for pair in ranks), word


def test_training_twice_gives_the_same_tokenizer_and_more_text_another():
    assert train_bpe(TEXTS, 300).fingerprint == train_bpe(iter(TEXTS), 300).fingerprint
    assert train_bpe(TEXTS, 300).fingerprint != train_bpe(["ab " * 99, *TEXTS], 300).fingerprint


def test_training_shortens_its_own_text():
    small, large = train_bpe(TEXTS, 270), train_bpe(TEXTS, 320)
    lengths = [sum(len(t.encode(text)) for text in TEXTS) for t in (small, large)]
    assert sum(len(text.encode()) for text in TEXTS) > lengths[0] > lengths[1]


def test_the_proof_counts_what_it_compared_and_finds_a_wrong_encoder(tiny_tokenizer):
    assert prove_identical(tiny_tokenizer, TEXTS) == len(NASTY_TEXTS) + len(TEXTS)

    class Shifted(BytePairTokenizer):
        def encode(self, text, *, bos=False, eos=False):
            return super().encode(text + " " * ("loss" in text), bos=bos, eos=eos)

    with pytest.raises(DataError, match="encoders disagree on"):
        prove_identical(Shifted(tiny_tokenizer.ranks), ["a loss"])


def test_the_record_beside_the_tokenizer_says_what_it_is(tiny_tokenizer, tmp_path):
    save_tokenizer(tmp_path, tiny_tokenizer, {"sources": ["x"]})
    record = json.loads((tmp_path / "ladderlm.json").read_text())
    assert record["fingerprint"] == tiny_tokenizer.fingerprint
    assert record["sha256"] == sha256_file(tmp_path / "tokenizer.json")
    assert record["sources"] == ["x"]
    assert (record["vocab_size"], record["bos_id"], record["eos_id"]) == (320, 318, 319)
