"""The words of a report.

Owns the sentences that are drawn from the facts by rule (headline, discussion, recommendation)
and the table of differences to Meta's code, to which each room adds its own rows. Pure functions
from facts to text.
"""

import math
from collections.abc import Collection, Mapping, Sequence
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
    "plates",
    "reproduce",
]

# What a study is drawn against, by the names of `--x`: columns of its table.
Axis = Literal["flops", "device_hours", "tokens"]
AXES: dict[Axis, str] = {"flops": "flops", "device_hours": "device_seconds", "tokens": "tokens"}


@dataclass(frozen=True, kw_only=True)
class AxisOptions:
    """Options of the figures of a study."""

    x: Axis = "flops"
    """Axis of the first figure of a study: flops (compute), device_hours or tokens. The other axes
    follow in further figures."""


# Anchor and title of every section, in order; a test looks for each with content.
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


def headline(facts: ReportFacts) -> list[str]:
    """Return the main results in a few sentences."""
    best, bits = facts.best_run, facts.best_run.bits_per_byte or math.nan
    sentences = [
        f"The best of {len(facts.runs)} runs has {format_count(best.n_params['total'])} "
        f"parameters, was trained on {format_count(best.n_positions)} tokens "
        f"({format_flops(best.flops)}, {format_seconds(best.timing['seconds'] or 0)} of training) "
        f"and reaches {bits:.3f} bits per byte on the validation text."
    ]
    trivial = facts.trivial.bits_per_byte if facts.trivial is not None else {}
    beaten = [name for name, value in trivial.items() if bits < value]
    ahead = [name for name, value in trivial.items() if bits >= value]
    if beaten:
        sentences.append(f"It beats {_list_models(beaten, trivial)} on the same text.")
    if ahead:
        sentences.append(f"Still ahead of it: {_list_models(ahead, trivial)}.")
    for study in facts.studies:
        sentences += [_verdict_sentence(study, judged) for judged in study.fits.variants]
    return sentences


def _list_models(names: Sequence[str], values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ({values[name]:.2f})" for name in names)


def _verdict_sentence(study: StudyFacts, judged: VariantFit | Unjudged) -> str:
    about = f"Study {study.about.name}: {judged.variant} against {study.about.arms[0].name}:"
    if isinstance(judged, Unjudged):
        return f"{about} {judged.problem.splitlines()[0]}."
    return f"{about} {judged.verdict.text} ({judged.verdict.reason})."


def discussion(facts: ReportFacts) -> list[str]:
    """Draw conclusions from the fits, paragraph by paragraph."""
    paragraphs = []
    for study in facts.studies:
        paragraphs += _discuss_study(study)
    check = facts.forecast_check
    if check is not None:
        paragraphs.append(
            f"The law fitted to {check.study} ({check.arm}) was also compared with the best "
            f"run, which has the same recipe and {check.times_the_top_rung:.1f} times the "
            f"compute of the top rung: predicted {check.predicted_bits_per_byte:.3f}, measured "
            f"{check.actual_bits_per_byte:.3f} bits per byte ({check.relative_error:+.1%})."
        )
    if not paragraphs:
        paragraphs.append(
            "No study is part of this report, so it says nothing about which change helps. "
            "`ladderlm study run STUDY.toml` makes one."
        )
    return paragraphs


def _discuss_study(study: StudyFacts) -> list[str]:
    law, card = study.fits.law, study.fits.card
    if law is None or card is None:
        problem = (study.fits.problem or "no law").splitlines()[0]
        return [f"{study.about.name}: {problem}. No conclusion is drawn."]
    low, high = card.compute_range
    slope = float(law.slope(np.array([law.c_ref]), law.branches[0])[0])
    paragraphs = [
        f"Over {low:.2g} to {high:.2g} FLOPs ({high / low:.0f}x) loss follows compute about as "
        f"L ~ C^{slope:.3f}: ten times the compute lowers bits per byte by "
        f"{1 - 10**slope:.1%}. {card.n_used} runs are fitted, every arm as the "
        f"baseline with more or less compute; they scatter about the law by {law.sigma:.1%}."
    ]
    paragraphs += [_discuss_variant(study, judged) for judged in study.fits.variants]
    if study.fits.holdout:
        worst = max(study.fits.holdout, key=lambda row: abs(row.relative_error))
        passed = all(row.passed for row in study.fits.holdout)
        paragraphs.append(
            f"The forecast of the held-out top rung, made from the rungs below it, "
            f"{'held' if passed else 'failed'}: the largest error is "
            f"{worst.relative_error:+.1%} ({worst.arm}, predicted {worst.predicted:.3f}, "
            f"measured {worst.actual:.3f})."
        )
    if study.about.warnings:
        paragraphs.append("Limits: " + "; ".join(study.about.warnings) + ".")
    return paragraphs


def _discuss_variant(study: StudyFacts, judged: VariantFit | Unjudged) -> str:
    if isinstance(judged, Unjudged):
        return _verdict_sentence(study, judged)
    return discuss_comparison(judged)


def discuss_comparison(judged: VariantFit) -> str:
    """Return a paragraph about what a variant is worth, no bolder than its intervals."""
    comparison, verdict = judged.comparison, judged.verdict
    baseline, variant = comparison.baseline, judged.variant
    pooled, trend, equal_time = comparison.pooled, comparison.trend, judged.at_equal_device_seconds
    if not math.isfinite(pooled.low_95) or not math.isfinite(pooled.value):
        return f"{variant}: the pooled multiplier cannot be bounded by these runs."
    if pooled.low_95 <= 1 <= pooled.high_95:
        meaning = "these runs do not show which of the two needs less"
    else:
        meaning = f"{variant} needs {'less' if pooled.value > 1 else 'more'}"
    text = (
        f"{variant} against {baseline}: for the loss that {variant} reaches, {baseline} needs "
        f"{pooled.value:.2f} times the compute (95 % {pooled.low_95:.2f} to "
        f"{pooled.high_95:.2f}): {meaning}. "
    )
    if math.isfinite(trend.value):
        text += (
            f"Per decade of compute ln m changes by {trend.value * math.log(10):+.3f} (95 % "
            f"{trend.low_95 * math.log(10):+.3f} to {trend.high_95 * math.log(10):+.3f}). "
        )
    if isinstance(equal_time, Comparison) and math.isfinite(equal_time.pooled.value):
        text += f"At equal device time the multiplier is {equal_time.pooled.value:.2f}. "
    text += f"Verdict by rule: {verdict.text}. {verdict.reason[:1].upper()}"
    text += f"{verdict.reason[1:]}. "
    if verdict.would_be != verdict.word:
        text += f"Had nothing stood in the way, the rule would have said {verdict.would_be}. "
    if verdict.demonstration:
        text += (
            "A ladder this small shows how a study is made; it does not settle the question for "
            "models that anyone would use."
        )
    return text.strip()


def plates(study: StudyFacts, figures: Collection[str], x: Axis) -> list[tuple[str, str]]:
    """List the figures of a study in order, each with its caption.

    Args:
        figures: names of all figures of the report.
        x: of `AXES`; the scaling figure against it comes first.
    """
    name, ladder = study.about.name, study.about.ladder
    seeds = ", ".join(map(str, ladder.seeds))
    if ladder.extra_seeds:
        more = ", ".join(map(str, ladder.extra_seeds))
        seeds += f" and {more} at the lowest {ladder.extra_seed_rungs} rungs"
    n_runs = len(study.results.compared)
    captions = {
        "flops": f"{name} against exact training FLOPs: {n_runs} runs, "
        f"{len(ladder.flops)} rungs, seeds {seeds}. Bands and bars are 95 % intervals.",
        "device_seconds": "The runs against device-hours: median step time of each run times its "
        "steps, in hours. Crossed runs shared their machine or ran on other hardware than most, "
        "and take no part in this fit.",
        "tokens": "The runs against the tokens that they were trained on.",
        "forecast": "The forecast of the held-out rungs, written before they were read, against "
        "the means that were measured.",
        "rates": "How the learning rates were found: losses around the best rate of the lowest "
        "rungs, a power law through the best rates, and its check on the next rung.",
        "isoflop": "Sizes of the baseline at equal compute. The optimum of each budget is "
        "estimated by a parabola in parameters and by one in tokens.",
        "search": "The search over options of the baseline: validation loss of every combination.",
    }
    order = [AXES[x], *(axis for axis in AXES.values() if axis != AXES[x]), *captions]
    return [(kind, captions[kind]) for kind in dict.fromkeys(order) if f"{name}-{kind}" in figures]


def notes(judged: VariantFit) -> list[str]:
    """Return what the errors that the scatter of the runs does not show come to."""
    said, rates = [], judged.comparison.rate_error
    if rates:
        said.append(
            f"All intervals but that of other documents hold an error of {rates:.3f} in the pooled "
            "ln m for learning rates that miss their best, which more seeds would not lower."
        )
    if isinstance(judged.documents, DocumentInterval):
        said.append(
            "Other documents: with the trained models as they are, scored on other validation "
            "texts of the same kind, the pooled m would be in this interval 95 times in 100; it "
            "says nothing of other seeds."
        )
    return said


def reproduce(facts: ReportFacts) -> list[str]:
    """Return the commands that make these runs again."""
    best = facts.best_run
    commands = [f"git checkout {best.machine.commit.rstrip('+')}"] if best.machine.commit else []
    commands.append("make setup")
    if isinstance(facts.data, DataFacts):
        commands += reproduce_data(facts.data)
    commands += [
        f"ladderlm study run {study.folder}/study.toml --out {study.folder}-again"
        for study in facts.studies
    ]
    commands.append(
        f"ladderlm train --config {best.folder}/config.json --data DATA --out again/{best.run_id}"
    )
    commands.append(f"ladderlm eval {best.folder} --data DATA")
    commands.append("ladderlm report verify .")
    return commands


def reproduce_data(data: DataFacts) -> list[str]:
    """Return the commands that make the prepared data again, as far as its records tell."""
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
