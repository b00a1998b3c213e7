"""Models that anyone has for free: hand values, a slow twin, and codes that cannot be too short."""

import gzip
import lzma
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.eval.baselines import ByteModel, trivial_models

TEXTS = st.lists(
    st.binary(max_size=12) | st.text("ab\x00", max_size=12).map(str.encode), max_size=5
)


def slow_bits(learnt, text, order):
    """Witten-Bell by dictionaries, one byte at a time."""

    def counts(context):
        seen = Counter()
        for other in learnt:
            padded = b"\0\0" + other
            for i in range(2, len(padded)):
                if padded[i - len(context) : i] == context:
                    seen[padded[i]] += 1
        return seen

    def probability(byte, context):
        below = probability(byte, context[1:]) if context else 1 / 256
        seen = counts(context)
        n, n_types = sum(seen.values()), len(seen)
        return (seen[byte] + n_types * below) / (n + n_types) if n else below

    padded = b"\0\0" + text
    places = range(2, len(padded))
    return -sum(math.log2(probability(padded[i], padded[i - order : i])) for i in places)


@settings(max_examples=15)  # the twin is slow
@given(learnt=TEXTS, text=st.binary(max_size=6) | st.just(b"abab"), order=st.integers(0, 2))
def test_code_lengths_equal_those_of_the_slow_twin(learnt, text, order):
    model = ByteModel()
    model.learn(learnt)
    assert model.bits([text], order) == pytest.approx(slow_bits(learnt, text, order), rel=1e-9)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_untaught_models_need_eight_bits_a_byte(order):
    assert ByteModel().bits([b"any text"], order) == pytest.approx(64)


@given(TEXTS, st.integers(0, 2))
def test_probabilities_sum_to_one_in_every_context(learnt, order):
    model = ByteModel()
    model.learn(learnt)
    seen = np.flatnonzero(model.counts[order]) >> 8
    contexts = np.union1d(seen, np.arange(0, 256**order, 97))
    places = (contexts[:, None] * 256 + np.arange(256)).ravel()
    chances = model.probabilities([places % 256 ** (k + 1) for k in range(order + 1)])
    assert chances.reshape(-1, 256).sum(axis=1) == pytest.approx(1.0)


def test_learning_in_parts_is_learning_at_once():
    texts = [b"abc", b"", b"bcd\0", b"abcabc"]
    parts, once = ByteModel(), ByteModel()
    for text in texts:
        parts.learn([text])
    once.learn(texts)
    for order in (0, 1, 2):
        assert parts.bits([b"abcd"], order) == once.bits([b"abcd"], order)


def test_rates_are_bits_of_the_raw_bytes():
    train = [b"the cat sat on the mat. " * 20]
    validation = [b"the cat sat. " * 30, b"a mat " * 10]
    found = trivial_models(train, validation)
    n_bytes = sum(map(len, validation))
    rates = found["bits_per_byte"]
    assert (found["n_documents"], found["n_bytes"]) == (2, n_bytes)
    assert rates["uniform bytes"] == 8.0
    assert rates["byte unigram"] < 8.0
    assert rates["order-2 byte model"] < rates["byte unigram"]
    zipped = sum(len(gzip.compress(text, 9)) for text in validation)
    assert rates["gzip -9, each document"] == pytest.approx(8 * zipped / n_bytes)
    whole = lzma.compress(b"".join(validation), preset=9 | lzma.PRESET_EXTREME)
    assert rates["xz -9e, whole"] == pytest.approx(8 * len(whole) / n_bytes)


@pytest.mark.parametrize("text", [b"", b"a", b"def f(x):\n" * 500, bytes(range(256)) * 70])
def test_the_small_dictionary_of_xz_loses_nothing(text):
    found = trivial_models([b"a"], [text, b"a"])["bits_per_byte"]["xz -9e, each document"]
    sizes = [len(lzma.compress(t, preset=9 | lzma.PRESET_EXTREME)) for t in (text, b"a")]
    assert found == pytest.approx(8 * sum(sizes) / (len(text) + 1))


def test_no_text_gives_no_rate():
    assert math.isnan(trivial_models([b"a"], [])["bits_per_byte"]["gzip -9, whole"])


def test_the_unigram_rate_is_the_one_by_hand():
    """4 bytes of 2 types: (2 + 2/256) / 6 for each of both, 2/256 / 6 for any other byte."""
    model = ByteModel()
    model.learn([b"ab", b"ba"])
    seen, unseen = (2 + 2 / 256) / 6, (2 / 256) / 6
    assert model.bits([b"aab"], 0) == pytest.approx(-3 * math.log2(seen))
    assert model.bits([b"z"], 0) == pytest.approx(-math.log2(unseen))


def test_on_much_text_the_unigram_rate_is_the_entropy():
    """p = 1/2, 1/4, 1/4: 1.5 bits; smoothing adds 3 types to 40,000 bytes."""
    text = b"aabc" * 10_000
    model = ByteModel()
    model.learn([text])
    assert model.bits([text], 0) / len(text) == pytest.approx(1.5, abs=1e-3)


def test_documents_without_a_byte_cost_nothing_and_teach_nothing():
    """P03: empty documents at the beginning, in the middle and at the end."""
    plain = trivial_models([b"abc", b"abd"], [b"ab", b"b"])
    empty = trivial_models([b"", b"abc", b"", b"abd", b""], [b"", b"ab", b"", b"b"])
    assert (empty["n_documents"], empty["n_bytes"]) == (4, 3)
    for name in ("uniform bytes", "byte unigram", "order-2 byte model", "xz -9e, whole"):
        assert empty["bits_per_byte"][name] == plain["bits_per_byte"][name]
