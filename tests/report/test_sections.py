"""The sentences of a report claim no more than the numbers they are made of."""

import pytest

from ladderlm.report.sections import _discuss_variant, _reproduce_data, notes, plates


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


def test_the_figure_against_what_was_asked_for_comes_first():
    ladder = {"flops": [1e9, 1e10], "seeds": [1, 2], "extra_seeds": [3], "extra_seed_rungs": 1}
    study = {"name": "s", "ladder": ladder, "rows": [{"excluded_because": ""}]}
    figures = [f"s-{name}" for name in ("search", "rates", "tokens", "device_seconds", "flops")]
    order = ("flops", "device_seconds", "tokens", "rates", "search")
    assert tuple(name for name, _ in plates(study, figures, "flops")) == order
    captions = dict(plates(study, figures, "tokens"))
    assert tuple(captions) == ("tokens", "flops", "device_seconds", "rates", "search")
    assert "1 runs, 2 rungs, seeds 1, 2 and 3 at the lowest 1 rungs" in captions["flops"]
    assert next(iter(plates(study, figures, "device_hours")))[0] == "device_seconds"
    assert plates(study, ["curves", "other-flops"], "flops") == []


def test_errors_beside_the_scatter_are_spoken_of_where_there_are_such():
    comparison = {"comparison": {"rate_error": 0.0}}
    assert notes(comparison | {"documents": {"problem": "none"}}) == []
    (rates,) = notes({"comparison": {"rate_error": 0.0312}})
    assert "0.031" in rates
    (documents,) = notes(comparison | {"documents": {"low_95": 1.0}})
    assert documents.startswith("Other documents: ")
