"""The sentences of a report claim no more than the numbers they are made of."""

import math

import pytest

from builders import make_row
from ladderlm.report.data_facts import CorpusFacts, DataFacts, SplitFacts, TokenizerFacts
from ladderlm.report.sections import discuss_comparison, notes, plates, reproduce_data
from ladderlm.report.studies import StudyFacts
from ladderlm.scaling.compare import Comparison, Estimate
from ladderlm.study.documents import DocumentInterval
from ladderlm.study.fits import Fits, VariantFit
from ladderlm.study.options import LadderOptions
from ladderlm.study.records import NoAnswer
from ladderlm.study.results import Results
from ladderlm.study.study import StudyDescription
from ladderlm.study.verdict import Verdict

UNKNOWN = Estimate(math.nan, math.nan, math.nan, math.nan, math.nan)


def judged(estimate=UNKNOWN, rate_error=0.0, documents=None):
    """Return what a study says of a variant whose multiplier is known."""
    comparison = Comparison(
        law=None,
        baseline="old",
        variant="new",
        rungs=(),
        pooled=estimate,
        trend=UNKNOWN,
        m_at_10x=UNKNOWN,
        seed_sd=None,
        rung_sd=None,
        method="",
        rate_error=rate_error,
    )
    verdict = Verdict("W", "r", "W", False, None, None)
    missing = NoAnswer("none")
    return VariantFit("new", comparison, verdict, missing, missing, documents=documents)


@pytest.mark.parametrize(
    ("estimate", "claim"),
    [
        ((1.01, 0.9, 1.1), "do not show which of the two needs less compute"),
        ((1.0, 1.0, 1.0), "do not show which of the two needs less compute"),
        ((1.2, 1.1, 1.3), "new needs less compute"),
        ((0.8, 0.7, 0.9), "new needs more compute"),
    ],
)
def test_a_direction_is_claimed_only_where_the_interval_leaves_one(estimate, claim):
    text = discuss_comparison(judged(Estimate(*estimate, *estimate[1:])))
    assert claim in text
    assert text.count("needs less") + text.count("needs more") == 1


@pytest.mark.parametrize("ends", [(-math.inf, 1.2), (math.nan, 1.2)])
def test_nothing_is_claimed_of_a_multiplier_without_a_lower_bound(ends):
    text = discuss_comparison(judged(Estimate(1.1, *ends, *ends)))
    assert text == "new: the pooled multiplier cannot be bounded by these runs."


def data_of(corpus, trained_on, names=("a b.jsonl",)):
    """Return the facts of data that its commands are drawn from."""
    sources = tuple({"name": name} for name in names)
    split = SplitFacts(1, 1, 1, {}, {}, "f", sources)
    tokenizer = TokenizerFacts("f", 512, trained_on)
    return DataFacts("f", tokenizer, {"train": split}, {}, corpus, (), (), None)


def test_data_is_made_again_from_its_sources_by_the_commands_shown():
    learnt = {"n_documents": 3, "n_bytes": 12345}
    assert reproduce_data(data_of(CorpusFacts("f", 1, {}, {}), learnt)) == [
        "ladderlm fetch local --out corpus",
        "ladderlm tokenizer train corpus --vocab-size 512 --max-bytes 12345 --out tokenizer",
        "ladderlm prepare corpus --tokenizer tokenizer --out DATA",
    ]
    assert reproduce_data(data_of(None, None)) == [
        "ladderlm prepare 'a b.jsonl' --tokenizer tokenizer --out DATA"
    ]


def study_of(ladder):
    """Return the facts of a study of one compared run."""
    about = StudyDescription(
        name="s",
        question="",
        rationale="",
        arms=(),
        ladder=ladder,
        warnings=(),
        pool="runs",
        demonstration=False,
    )
    return StudyFacts(about, "s", Results((make_row(excluded_because=""),)), Fits(study="s"), None)


def test_the_figure_against_what_was_asked_for_comes_first():
    ladder = LadderOptions(flops=(1e9, 1e10), seeds=(1, 2), extra_seeds=(3,), extra_seed_rungs=1)
    study = study_of(ladder)
    figures = [f"s-{name}" for name in ("search", "rates", "tokens", "device_seconds", "flops")]
    order = ("flops", "device_seconds", "tokens", "rates", "search")
    assert tuple(name for name, _ in plates(study, figures, "flops")) == order
    captions = dict(plates(study, figures, "tokens"))
    assert tuple(captions) == ("tokens", "flops", "device_seconds", "rates", "search")
    assert "1 run, 2 rungs, seeds 1, 2 and 3 on the lowest rung" in captions["flops"]
    assert next(iter(plates(study, figures, "device_hours")))[0] == "device_seconds"
    assert plates(study, ["curves", "other-flops"], "flops") == []


def test_errors_beside_the_scatter_are_spoken_of_where_there_are_such():
    assert notes(judged(documents=NoAnswer("none"))) == []
    (rates,) = notes(judged(rate_error=0.0312))
    assert "0.031" in rates
    (documents,) = notes(judged(documents=DocumentInterval(9, 500, 1.0, 1.1, 0.02)))
    assert documents.startswith("Other documents: ")
