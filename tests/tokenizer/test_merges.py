"""Counting pieces and choosing merges: the result of Hugging Face's trainer, in bounded memory."""

import random
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from builders import make_records
from ladderlm.tokenizer.bpe_file import byte_alphabet
from ladderlm.tokenizer.merges import MAX_PIECE_CHARS, count_pieces, learn_tokens
from ladderlm.tokenizer.split import SPLIT_PATTERN, split_reference

TO_BYTE = {char: byte for byte, char in byte_alphabet().items()}


def learn_with_hugging_face(texts, n_tokens):
    learner = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    alphabet = sorted(byte_alphabet().values())
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens, initial_alphabet=alphabet, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    by_id = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    return [bytes(TO_BYTE[char] for char in word) for word, _ in by_id]


WORDS = st.sampled_from(
    ["aaaa", "aab", "abab", "b", " ", "\n", "bbbbb", "é", "éé", "the", "then", "12"]
)


@given(texts=st.lists(st.lists(WORDS, max_size=12).map("".join), max_size=6))
def test_the_tokens_are_those_of_hugging_face_to_the_last_tie(texts):
    """Short texts are full of ties and of pairs that overlap."""
    assert learn_tokens(count_pieces(texts), 300) == learn_with_hugging_face(texts, 300)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_tokens_of_a_corpus_are_those_of_hugging_face(seed):
    rng = random.Random(seed)
    syllables = ["".join(rng.choices("aeioukstrnml", k=2)) for _ in range(40)] + ["日本", "é", "--"]
    texts = [record["text"] for record in make_records(30, seed=seed)]
    for _ in range(60):
        words = ["".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(120)]
        texts.append(" ".join(words))
    assert learn_tokens(count_pieces(texts), 1500) == learn_with_hugging_face(texts, 1500)


@given(texts=st.lists(st.text(" \n\tab1!é'", max_size=30), max_size=5))
def test_pieces_are_counted_as_the_reference_cuts_them(texts):
    expected = Counter(piece for text in texts for piece in split_reference(text))
    assert count_pieces(texts) == expected


def test_frequent_pieces_survive_when_rare_ones_are_forgotten():
    """However many pieces occur once, the common ones keep nearly all of their counts."""
    texts = [f"the x{number}y of" for number in range(3000)]
    counts = count_pieces(
        (text.replace(str(i), chr(0x4E00 + i)) for i, text in enumerate(texts)), 500
    )
    assert len(counts) <= 500
    for word in ("the", " of"):
        assert 2900 <= counts[word] <= 3000


def test_memory_does_not_grow_with_the_number_of_different_pieces():
    """A stream eight times as long, of pieces that never come again, takes no more."""
    peaks = []
    for n in (500, 4000):
        tracemalloc.start()
        texts = (
            " ".join(f"w{chr(97 + i % 26)}{chr(0x4E00 + j)}{chr(0x4E00 + i)}" for j in range(10))
            for i in range(n)
        )
        assert len(count_pieces(texts, 1000)) <= 1000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 1.1 * peaks[0]


def test_giant_pieces_are_left_out():
    long, just = "x" * (MAX_PIECE_CHARS + 1), "y" * MAX_PIECE_CHARS
    assert count_pieces([long, just + "\n"]) == {just: 1, "\n": 1}
