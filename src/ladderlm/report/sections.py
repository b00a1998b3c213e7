"""The sentences of a report.

Owns the text that follows from the facts by rule (headline, captions, discussion, commands) and the
table of differences from Meta's code, to which each room adds its own rows. Pure functions.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from shlex import quote
from typing import Literal

import numpy as np

from ladderlm.changes import MetaChange
from ladderlm.data.config import DATA_CHANGES
from ladderlm.eval.config import EVAL_CHANGES
from ladderlm.model.config import MODEL_CHANGES
from ladderlm.optim.config import OPTIM_CHANGES
from ladderlm.report.data_facts import DataFacts
from ladderlm.report.facts import ReportFacts
from ladderlm.report.studies import StudyFacts
from ladderlm.scaling.compare import Comparison
from ladderlm.study.documents import DocumentInterval
from ladderlm.study.fits import Unjudged, VariantFit
from ladderlm.tokenizer.base import TOKENIZER_CHANGES
from ladderlm.training.config import TRAIN_CHANGES
from ladderlm.units import format_count, format_flops, format_seconds

__all__ = [
    "AXES",
    "CHANGES",
    "RUBRIC",
    "Axis",
    "AxisOptions",
    "discussion",
    "headline",
    "notes",
    "number_of",
    "plates",
    "reproduce",
]

# Axes of a study's scaling figures: value of `--x` -> column of the table.
Axis = Literal["flops", "device_hours", "tokens"]
AXES: dict[Axis, str] = {"flops": "flops", "device_hours": "device_seconds", "tokens": "tokens"}


@dataclass(frozen=True, kw_only=True)
class AxisOptions:
    """Options of the figures of a study."""

    x: Axis = "flops"
    """Axis of the first figure of a study: flops (compute), device_hours or tokens. The other axes
    follow in further figures."""


# Anchor and title of every section, in order.
RUBRIC = (
    ("summary", "Summary"),
    ("data", "How the data was processed"),
    ("batches", "Example batches, as the model sees them"),
    ("code", "What was changed against Meta's code"),
    ("experiments", "Experiments"),
    ("curves", "Training and validation curves of the best model"),
    ("evaluation", "Evaluation of the best model"),
    ("samples", "Samples"),
    ("ablation", "Ablation study"),
    ("discussion", "Discussion and recommendation"),
    ("reproduce", "How to reproduce this"),
    ("links", "Code and checkpoints"),
    ("software", "Software used"),
)

CHANGES = (
    *MODEL_CHANGES,
    *TOKENIZER_CHANGES,
    *DATA_CHANGES,
    *OPTIM_CHANGES,
    *TRAIN_CHANGES,
    *EVAL_CHANGES,
    MetaChange(
        "Studies",
        "none",
        "ladders of runs, scaling-law fits, compute multipliers, verdicts by rule, this report",
        "study/, scaling/, report/",
    ),
)


def number_of(n: int, noun: str) -> str:
    """Return a count with its noun: 1 run, 2 runs."""
    return f"{n} {noun}{'s' * (n != 1)}"


def headline(facts: ReportFacts) -> list[str]:
    """Return the main results in a few sentences."""
    best, bits = facts.best_run, facts.best_run.bits_per_byte or math.nan
    sentences = [
        f"The best of {number_of(len(facts.runs), 'run')} has "
        f"{format_count(best.n_params['total'])} parameters, was trained on "
        f"{format_count(best.n_positions)} tokens ({format_flops(best.flops)}, "
        f"{format_seconds(best.timing['seconds'] or 0)} of training) and reaches {bits:.3f} bits "
        "per byte on the validation text."
    ]
    trivial = facts.trivial.bits_per_byte if facts.trivial is not None else {}
    for words, beaten in (("On the same text it is better than", True), ("It is behind", False)):
        names = [f"{name} ({v:.2f})" for name, v in trivial.items() if (bits < v) == beaten]
        if names:
            sentences.append(f"{words} {', '.join(names)}.")
    for study in facts.studies:
        sentences += [_verdict_sentence(study, judged) for judged in study.fits.variants]
    return sentences


def _verdict_sentence(study: StudyFacts, judged: VariantFit | Unjudged) -> str:
    about = f"Study {study.about.name}, {judged.variant} against {study.about.arms[0].name}:"
    if isinstance(judged, Unjudged):
        return f"{about} {judged.problem.splitlines()[0]}."
    return f"{about} {judged.verdict.text} ({judged.verdict.reason})."


def discussion(facts: ReportFacts) -> list[str]:
    """Return the conclusions from the fits, by paragraph."""
    paragraphs = [text for study in facts.studies for text in _discuss_study(study)]
    check = facts.forecast_check
    if check is not None:
        paragraphs.append(
            f"The law fitted to {check.study} ({check.arm}) was also compared with the best "
            f"run, which has the same recipe and {check.times_the_top_rung:.1f} times the "
            f"compute of the top rung: predicted {check.predicted_bits_per_byte:.3f}, measured "
            f"{check.actual_bits_per_byte:.3f} bits per byte ({check.relative_error:+.1%})."
        )
    return paragraphs or [
        "No study is part of this report, so it draws no conclusions about changes. "
        "`ladderlm study run STUDY.toml` carries out a study."
    ]


def _discuss_study(study: StudyFacts) -> list[str]:
    law, card = study.fits.law, study.fits.card
    if law is None or card is None:
        problem = (study.fits.problem or "no law").splitlines()[0]
        return [f"Study {study.about.name}: {problem}. No conclusion is drawn."]
    low, high = card.compute_range
    slope = float(law.slope(np.array([law.c_ref]), law.branches[0])[0])
    paragraphs = [
        f"Study {study.about.name}: from {low:.2g} to {high:.2g} FLOPs ({high / low:.0f}x), loss "
        f"follows compute approximately as L ~ C^{slope:.3f}: ten times the compute lowers bits "
        f"per byte by {1 - 10**slope:.1%}. The law is fitted to {number_of(card.n_used, 'run')} "
        "and treats every arm as the baseline with more or less compute. The runs scatter around "
        f"it by {law.sigma:.1%}."
    ]
    paragraphs += [
        _verdict_sentence(study, judged)
        if isinstance(judged, Unjudged)
        else discuss_comparison(judged)
        for judged in study.fits.variants
    ]
    if study.fits.holdout:
        worst = max(study.fits.holdout, key=lambda row: abs(row.relative_error))
        passed = all(row.passed for row in study.fits.holdout)
        paragraphs.append(
            "The forecast of the held-out rungs, made from the rungs below them, "
            f"{'passed' if passed else 'failed'} its check. The largest error is "
            f"{worst.relative_error:+.1%} ({worst.arm}, predicted {worst.predicted:.3f}, "
            f"measured {worst.actual:.3f})."
        )
    if study.about.warnings:
        paragraphs.append("Limitations: " + "; ".join(study.about.warnings) + ".")
    return paragraphs


def discuss_comparison(judged: VariantFit) -> str:
    """Return a paragraph about the effect of a variant that claims no more than its intervals."""
    comparison, verdict = judged.comparison, judged.verdict
    baseline, variant = comparison.baseline, judged.variant
    pooled, trend, equal_time = comparison.pooled, comparison.trend, judged.at_equal_device_seconds
    if not math.isfinite(pooled.low_95) or not math.isfinite(pooled.value):
        return f"{variant}: the pooled multiplier cannot be bounded by these runs."
    if pooled.low_95 <= 1 <= pooled.high_95:
        meaning = "these runs do not show which of the two needs less compute"
    else:
        meaning = f"{variant} needs {'less' if pooled.value > 1 else 'more'} compute"
    sentences = [
        f"{variant} against {baseline}: to reach the loss of {variant}, {baseline} needs "
        f"{pooled.value:.2f} times the compute (95 % interval {pooled.low_95:.2f} to "
        f"{pooled.high_95:.2f}): {meaning}."
    ]
    if math.isfinite(trend.value):
        low, middle, high = (
            f"{slope * math.log(10):+.3f}" for slope in (trend.low_95, trend.value, trend.high_95)
        )
        sentences.append(
            f"For every tenfold increase in compute, ln m changes by {middle} (95 % interval {low} "
            f"to {high})."
        )
    if isinstance(equal_time, Comparison) and math.isfinite(equal_time.pooled.value):
        sentences.append(f"At equal device time the multiplier is {equal_time.pooled.value:.2f}.")
    reason = verdict.reason[:1].upper() + verdict.reason[1:]
    sentences.append(f"Verdict by rule: {verdict.text}. {reason}.")
    if verdict.would_be != verdict.word:
        sentences.append(f"Without this rule, the verdict would be {verdict.would_be}.")
    if verdict.demonstration:
        sentences.append(
            "A ladder this small demonstrates how a study works. It does not answer the question "
            "for models of practical size."
        )
    return " ".join(sentences)


def plates(study: StudyFacts, figures: Collection[str], x: Axis) -> list[tuple[str, str]]:
    """List the figures of a study in order, each with its caption.

    Args:
        figures: names of all figures of the report.
        x: axis of the scaling figure that comes first.
    """
    name, ladder = study.about.name, study.about.ladder
    seeds = ", ".join(map(str, ladder.seeds))
    if ladder.extra_seeds:
        more, n_more = ", ".join(map(str, ladder.extra_seeds)), ladder.extra_seed_rungs
        seeds += f" and {more} on the lowest {number_of(n_more, 'rung') if n_more > 1 else 'rung'}"
    captions = {
        "flops": f"{name} against exact training FLOPs: "
        f"{number_of(len(study.results.compared), 'run')}, {number_of(len(ladder.flops), 'rung')}, "
        f"seeds {seeds}. Bands and bars are 95 % intervals.",
        "device_seconds": "The same runs against device-hours: the median step time of each run "
        "times its number of steps. Crossed runs shared their machine or ran on other hardware "
        "than most, and are left out of this fit.",
        "tokens": "The same runs against the number of training tokens.",
        "forecast": "The forecast of the held-out rungs, written before their results were read, "
        "and the means that were measured.",
        "rates": "The search for learning rates: losses around the best rate of the lowest rungs, "
        "a power law through the best rates, and its check on the next rung.",
        "isoflop": "Baselines of different sizes at equal compute. The optimum of each budget is "
        "estimated by a parabola in parameters and by one in tokens.",
        "search": "The search over options of the baseline: validation loss of every combination.",
    }
    order = [AXES[x], *(axis for axis in AXES.values() if axis != AXES[x]), *captions]
    return [(kind, captions[kind]) for kind in dict.fromkeys(order) if f"{name}-{kind}" in figures]


def notes(judged: VariantFit) -> list[str]:
    """Return sentences about the errors that the scatter of the runs does not show."""
    sentences, rates = [], judged.comparison.rate_error
    if rates:
        sentences.append(
            f"All intervals except that of other documents include an error of {rates:.3f} in the "
            "pooled ln m, because the learning rates are not exactly the best ones. More seeds "
            "would not reduce it."
        )
    if isinstance(judged.documents, DocumentInterval):
        sentences.append(
            "Other documents: if the same trained models were scored on other validation texts of "
            "the same kind, the pooled m would be in this interval 95 times out of 100. The "
            "interval does not account for other seeds."
        )
    return sentences


def reproduce(facts: ReportFacts) -> list[str]:
    """Return the commands that repeat these runs."""
    best = facts.best_run
    commands = [f"git checkout {best.machine.commit.rstrip('+')}"] if best.machine.commit else []
    commands.append("make setup")
    if isinstance(facts.data, DataFacts):
        commands += reproduce_data(facts.data)
    commands += [
        f"ladderlm study run {study.folder}/study.toml --out {study.folder}-again"
        for study in facts.studies
    ]
    return [
        *commands,
        f"ladderlm train --config {best.folder}/config.json --data DATA --out again/{best.run_id}",
        f"ladderlm eval {best.folder} --data DATA",
        "ladderlm report verify .",
    ]


def reproduce_data(data: DataFacts) -> list[str]:
    """Return the commands that prepare the same data, as far as its records describe it."""
    local, sources = data.corpus is not None, next(iter(data.splits.values())).sources
    commands = ["ladderlm fetch local --out corpus"] if local else []
    place = "corpus" if local else " ".join(quote(source["name"]) for source in sources)
    trained_on = data.tokenizer.trained_on
    if trained_on:
        commands.append(
            f"ladderlm tokenizer train {place} --vocab-size {data.tokenizer.vocab_size} "
            f"--max-bytes {trained_on['n_bytes']} --out tokenizer"
        )
    return [*commands, f"ladderlm prepare {place} --tokenizer tokenizer --out DATA"]
