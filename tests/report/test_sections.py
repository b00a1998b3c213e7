"""The sentences of a report claim no more than the numbers they are made of."""

import pytest

from ladderlm.report.sections import _discuss_variant


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
