"""The sentences of a report claim no more than the numbers they are made of."""

import pytest

from ladderlm.report.sections import _discuss_variant, _reproduce_data


def judged(value, low, high):
    """Give what a study says of a variant whose multiplier is known."""
    estimate = {"value": value, "low_95": low, "high_95": high}
    verdict = {"text": "T", "reason": "r", "word": "W", "would_be": "W", "demonstration": False}
    return {
        "variant": "new",
        "comparison": {
            "baseline": "old",
            "pooled": estimate,
            "trend": {"value": None, "low_95": None, "high_95": None},
        },
        "verdict": verdict,
    }


@pytest.mark.parametrize(
    ("estimate", "claim"),
    [
        ((1.01, 0.9, 1.1), "do not show which of the two needs less"),
        ((1.0, 1.0, 1.0), "do not show which of the two needs less"),
        ((1.2, 1.1, 1.3), "new needs less"),
        ((0.8, 0.7, 0.9), "new needs more"),
    ],
)
def test_a_direction_is_claimed_only_where_the_interval_leaves_one(estimate, claim):
    text = _discuss_variant({}, judged(*estimate))
    assert claim in text
    assert text.count("needs less") + text.count("needs more") == 1


def data_of(corpus, trained_on, names=("a b.jsonl",)):
    """Give the facts of data that its commands are drawn from."""
    sources = [{"name": name} for name in names]
    tokenizer = {"vocab_size": 512, "trained_on": trained_on}
    return {"corpus": corpus, "tokenizer": tokenizer, "splits": {"train": {"sources": sources}}}


def test_data_is_made_again_from_its_sources_by_the_commands_shown():
    learnt = {"n_documents": 3, "n_bytes": 12345}
    assert _reproduce_data(data_of({"fingerprint": "f"}, learnt)) == [
        "ladderlm fetch local --out corpus",
        "ladderlm tokenizer train corpus --vocab-size 512 --max-bytes 12345 --out tokenizer",
        "ladderlm prepare corpus --tokenizer tokenizer --out DATA",
    ]
    assert _reproduce_data(data_of(None, None)) == [
        "ladderlm prepare 'a b.jsonl' --tokenizer tokenizer --out DATA"
    ]
    assert _reproduce_data({"problem": "gone"}) == []
