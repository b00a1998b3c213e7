"""The words of a report.

Owns the sentences that are drawn from the facts by rule (headline, discussion, recommendation)
and the table of differences to Meta's code, to which each room adds its own rows. Pure functions
from facts to text.
"""

import math
from collections.abc import Collection
from shlex import quote
from typing import Any, Literal

from ladderlm.changes import MetaChange
from ladderlm.data.config import DATA_CHANGES
from ladderlm.eval.config import EVAL_CHANGES
from ladderlm.model.config import MODEL_CHANGES
from ladderlm.optim.config import OPTIM_CHANGES
from ladderlm.tokenizer.base import TOKENIZER_CHANGES
from ladderlm.train.config import TRAIN_CHANGES
from ladderlm.units import format_count, format_flops, format_seconds

__all__ = [
    "AXES",
    "CHANGES",
    "RUBRIC",
    "Axis",
    "discussion",
    "headline",
    "notes",
    "plates",
    "reproduce",
]

Facts = dict[str, Any]

# What a study is drawn against, by the names of `--x`: columns of its table.
Axis = Literal["flops", "device_hours", "tokens"]
AXES: dict[Axis, str] = {"flops": "flops", "device_hours": "device_seconds", "tokens": "tokens"}

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


def headline(facts: Facts) -> list[str]:
    """Say the main results in a few sentences."""
    best = _best(facts)
    size = format_count(best["n_params"]["total"])
    sentences = [
        f"The best of {len(facts['runs'])} runs has {size} parameters, was trained on "
        f"{format_count(best['n_positions'])} tokens ({format_flops(best['flops'])}, "
        f"{format_seconds(best['timing']['seconds'])} of training) and reaches "
        f"{best['bits_per_byte']:.3f} bits per byte on the validation text."
    ]
    trivial = facts["data"].get("trivial", {}).get("bits_per_byte", {})
    beaten = [name for name, value in trivial.items() if best["bits_per_byte"] < value]
    ahead = [name for name, value in trivial.items() if best["bits_per_byte"] >= value]
    if beaten:
        sentences.append(f"It beats {_listed(beaten, trivial)} on the same text.")
    if ahead:
        sentences.append(f"Still ahead of it: {_listed(ahead, trivial)}.")
    for study in facts["studies"]:
        for judged in study["fits"]["variants"]:
            sentences.append(_verdict_sentence(study, judged))
    return sentences


def _listed(names: list[str], values: dict[str, float]) -> str:
    return ", ".join(f"{name} ({values[name]:.2f})" for name in names)


def _best(facts: Facts) -> Facts:
    run: Facts = next(run for run in facts["runs"] if run["run_id"] == facts["best"])
    return run


def _verdict_sentence(study: Facts, judged: Facts) -> str:
    baseline = study["arms"][0]["name"]
    if "problem" in judged:
        problem = judged["problem"].splitlines()[0]
        return f"Study {study['name']}: {judged['variant']} against {baseline}: {problem}."
    verdict = judged["verdict"]
    return (
        f"Study {study['name']}: {judged['variant']} against {baseline}: {verdict['text']} "
        f"({verdict['reason']})."
    )


def discussion(facts: Facts) -> list[str]:
    """Draw conclusions from the fits, paragraph by paragraph."""
    paragraphs = []
    for study in facts["studies"]:
        paragraphs += _discuss_study(study)
    check = facts["forecast_check"]
    if check:
        paragraphs.append(
            f"The law fitted to {check['study']} ({check['arm']}) was also held against the best "
            f"run, which has the same recipe and {check['times_the_top_rung']:.1f} times the "
            f"compute of the top rung: predicted {check['predicted_bits_per_byte']:.3f}, measured "
            f"{check['actual_bits_per_byte']:.3f} bits per byte "
            f"({check['relative_error']:+.1%})."
        )
    if not paragraphs:
        paragraphs.append(
            "No study is part of this report, so it says nothing about which change helps. "
            "`ladderlm study run STUDY.toml` makes one."
        )
    return paragraphs


def _discuss_study(study: Facts) -> list[str]:
    fits = study["fits"]
    if "problem" in fits:
        return [f"{study['name']}: {fits['problem'].splitlines()[0]}. No conclusion is drawn."]
    law, card = fits["law"], fits["card"]
    low, high = card["compute_range"]
    paragraphs = [
        f"Over {low:.2g} to {high:.2g} FLOPs ({high / low:.0f}x) loss follows compute about as "
        f"L ~ C^{law['slope']:.3f}: ten times the compute lowers bits per byte by "
        f"{1 - 10 ** law['slope']:.1%}. {card['n_used']} runs are fitted, every arm as the "
        f"baseline with more or less compute; they scatter about the law by {law['sigma']:.1%}."
    ]
    paragraphs += [_discuss_variant(study, judged) for judged in fits["variants"]]
    held = fits.get("holdout")
    if held:
        worst = max(held, key=lambda row: abs(row["relative_error"]))
        passed = all(row["passed"] for row in held)
        paragraphs.append(
            f"The forecast of the held-out top rung, made from the rungs below it, "
            f"{'held' if passed else 'failed'}: the largest error is "
            f"{worst['relative_error']:+.1%} ({worst['arm']}, predicted {worst['predicted']:.3f}, "
            f"measured {worst['actual']:.3f})."
        )
    if study["warnings"]:
        paragraphs.append("Limits: " + "; ".join(study["warnings"]) + ".")
    return paragraphs


def _discuss_variant(study: Facts, judged: Facts) -> str:
    if "problem" in judged:
        return _verdict_sentence(study, judged)
    comparison, verdict = judged["comparison"], judged["verdict"]
    baseline, variant = comparison["baseline"], judged["variant"]
    pooled, trend = comparison["pooled"], comparison["trend"]
    if pooled["low_95"] is None or pooled["value"] is None:
        return f"{variant}: the pooled multiplier cannot be bounded by these runs."
    if pooled["low_95"] <= 1 <= pooled["high_95"]:
        meaning = "these runs do not show which of the two needs less"
    else:
        meaning = f"{variant} needs {'less' if pooled['value'] > 1 else 'more'}"
    text = (
        f"{variant} against {baseline}: for the loss that {variant} reaches, {baseline} needs "
        f"{pooled['value']:.2f} times the compute (95 % {pooled['low_95']:.2f} to "
        f"{pooled['high_95']:.2f}): {meaning}. "
    )
    if trend["value"] is not None and math.isfinite(trend["value"]):
        text += (
            f"Per decade of compute ln m changes by {trend['value'] * math.log(10):+.3f} (95 % "
            f"{trend['low_95'] * math.log(10):+.3f} to {trend['high_95'] * math.log(10):+.3f}). "
        )
    equal_time = judged.get("at_equal_device_seconds", {}).get("pooled")
    if equal_time and equal_time["value"] is not None:
        text += f"At equal device time the multiplier is {equal_time['value']:.2f}. "
    text += f"Verdict by rule: {verdict['text']}. {verdict['reason'][:1].upper()}"
    text += f"{verdict['reason'][1:]}. "
    if verdict["would_be"] != verdict["word"]:
        text += f"Had nothing stood in the way, the rule would have said {verdict['would_be']}. "
    if verdict["demonstration"]:
        text += (
            "A ladder this small shows how a study is made; it does not settle the question for "
            "models that anyone would use."
        )
    return text.strip()


def plates(study: Facts, figures: Collection[str], x: Axis) -> list[tuple[str, str]]:
    """List the figures of a study in order, each with its caption.

    Args:
        figures: names of all figures of the report.
        x: of `AXES`; the scaling figure against it comes first.
    """
    ladder = study["ladder"]
    seeds = ", ".join(map(str, ladder["seeds"]))
    if ladder["extra_seeds"]:
        more = ", ".join(map(str, ladder["extra_seeds"]))
        seeds += f" and {more} at the lowest {ladder['extra_seed_rungs']} rungs"
    n_runs = sum(not row["excluded_because"] for row in study["rows"])
    captions = {
        "flops": f"{study['name']} against exact training FLOPs: {n_runs} runs, "
        f"{len(ladder['flops'])} rungs, seeds {seeds}. Bands and bars are 95 % intervals.",
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
    return [
        (name, captions[name])
        for name in dict.fromkeys(order)
        if f"{study['name']}-{name}" in figures
    ]


def notes(judged: Facts) -> list[str]:
    """Say what two errors beside the scatter of the runs come to."""
    said, documents = [], judged.get("documents", {})
    rates = judged["comparison"]["rate_error"]
    if rates:
        said.append(
            f"All intervals but that of other documents hold an error of {rates:.3f} in the pooled "
            "ln m for learning rates that miss their best, which more seeds would not lower."
        )
    if "low_95" in documents:
        said.append(
            "Other documents: with the trained models as they are, scored on other validation "
            "texts of the same kind, the pooled m would lie in this interval 95 times in 100; it "
            "says nothing of other seeds."
        )
    return said


def reproduce(facts: Facts) -> list[str]:
    """Give the commands that make these runs again."""
    best = _best(facts)
    commands = [f"git checkout {best['commit'].rstrip('+')}"] if best["commit"] else []
    commands.append("make setup")
    commands += _reproduce_data(facts["data"])
    commands += [
        f"ladderlm study run {study['folder']}/study.toml --out {study['folder']}-again"
        for study in facts["studies"]
    ]
    commands.append(
        f"ladderlm train --config {best['folder']}/config.json --data DATA --out again/"
        f"{best['run_id']}"
    )
    commands.append(f"ladderlm eval {best['folder']} --data DATA")
    commands.append("ladderlm report verify .")
    return commands


def _reproduce_data(data: Facts) -> list[str]:
    """Give the commands that make the prepared data again, as far as its records tell."""
    if "problem" in data:
        return []
    tokenizer, sources = data["tokenizer"], next(iter(data["splits"].values()))["sources"]
    local = data["corpus"] is not None
    commands = ["ladderlm fetch local --out corpus"] if local else []
    place = "corpus" if local else " ".join(quote(source["name"]) for source in sources)
    if tokenizer["trained_on"]:
        commands.append(
            f"ladderlm tokenizer train {place} --vocab-size {tokenizer['vocab_size']} "
            f"--max-bytes {tokenizer['trained_on']['n_bytes']} --out tokenizer"
        )
    return [*commands, f"ladderlm prepare {place} --tokenizer tokenizer --out DATA"]
