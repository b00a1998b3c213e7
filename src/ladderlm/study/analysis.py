"""From the table of a study to its fits and verdicts.

Owns the computation of `Fits`: laws, hold-outs, verdicts, and the comparisons of every variant with
the baseline over every axis and subset.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.eval.bootstrap import holm
from ladderlm.scaling.compare import Comparison, Estimate, compare_arms
from ladderlm.scaling.joint import fit_card, fit_law, holdout_errors
from ladderlm.scaling.points import Points
from ladderlm.study.baseline import fit_best_sizes, measure_seed_noise
from ladderlm.study.documents import resample_documents
from ladderlm.study.fits import (
    AxisFit,
    FitCard,
    Fits,
    HoldoutCheck,
    SubsetEstimate,
    Unjudged,
    VariantFit,
)
from ladderlm.study.forecast import StoredForecast
from ladderlm.study.origins import incomparable_times
from ladderlm.study.records import NoAnswer, parse_record
from ladderlm.study.results import Results
from ladderlm.study.search import SearchResult
from ladderlm.study.spec import StudySpec
from ladderlm.study.tuning import Tuning, rate_shift
from ladderlm.study.verdict import Verdict, decide

__all__ = ["analyse"]

Shift = NDArray[np.float64] | None  # the effect of mistuned rates, see `rate_shift`


def analyse(
    spec: StudySpec,
    results: Results,
    tunings: Sequence[Tuning] = (),
    pool: Path | None = None,
    search: SearchResult | None = None,
    forecast: StoredForecast | None = None,
) -> Fits:
    """Fit, compare and judge.

    Args:
        tunings: of the arms that were tuned.
        pool: folder of the runs, for times and the losses of single documents; None: without.
        search: result of the study's search.
        forecast: the stored one of the held-out rungs.
    """
    excluded = {row.run_id: row.excluded_because for row in results.ladder if not row.counts}
    baseline, budgets = spec.arms[0].name, spec.ladder.flops
    times = {} if pool is None else incomparable_times(results, pool)
    shifts = {arm.name: rate_shift(tunings, (baseline, arm.name), budgets) for arm in spec.arms[1:]}
    timed = results.where(lambda row: row.run_id not in times)
    axes = {
        "flops": _fit_axis(results.points(), baseline, shifts, excluded),
        "device_seconds": _fit_axis(timed.points("device_seconds"), baseline, shifts),
        "tokens": _fit_axis(results.points("tokens"), baseline, shifts),
    }
    fits = Fits(
        study=spec.name,
        excluded=excluded,
        incomparable_times=times,
        forecast=forecast,
        noise=measure_seed_noise(results, baseline),
        isoflop=fit_best_sizes(results, baseline, budgets),
        tuning=tuple(tunings),
        forecast_score=() if forecast is None else forecast.score(results),
        search=search,
        axes=axes,
    )
    whole, problem = axes["flops"], axes["flops"].problem
    if not any(row.status == "finished" for row in results):
        problem = "no run of this study has finished; start them: ladderlm study run"
    if problem is not None:
        return replace(fits, problem=problem)
    holdout = _predict_held_out(results.points(), spec.ladder.holdout, baseline)
    fits = replace(fits, law=whole.law, card=whole.card, holdout=holdout)
    found = {k: v for k, v in whole.comparisons.items() if isinstance(v, Comparison)}
    adjusted = _adjust({name: comparison.pooled.p_value for name, comparison in found.items()})

    def judge(name: str, comparison: Comparison | NoAnswer) -> VariantFit | Unjudged:
        if isinstance(comparison, NoAnswer):
            return Unjudged(name, comparison.problem)
        at_equal_time = axes["device_seconds"].comparisons[name]
        if isinstance(at_equal_time, NoAnswer) and times:
            why = at_equal_time.problem.splitlines()[0]
            at_equal_time = NoAnswer(f"{why}; {_count_reasons(times)}")
        return VariantFit(
            variant=name,
            comparison=comparison,
            verdict=_judge(spec, comparison, fits, adjusted if len(adjusted) > 1 else {}),
            at_equal_device_seconds=at_equal_time,
            at_equal_tokens=axes["tokens"].comparisons[name],
            lengths=_compare_lengths(results.points(), baseline, name, shifts[name]),
            subsets=_compare_subsets(results, baseline, name, shifts[name]),
            documents=None if pool is None else resample_documents(results, pool, comparison),
        )

    return replace(fits, variants=tuple(judge(*pair) for pair in whole.comparisons.items()))


def _fit_axis(
    points: Points,
    baseline: str,
    shifts: Mapping[str, Shift],
    excluded: Mapping[str, str] | None = None,
) -> AxisFit:
    """Fit the law of all arms, and compare every variant with the baseline."""
    law, card, problem = None, None, None
    try:
        law = fit_law(points, baseline)
        card = parse_record(FitCard, fit_card(law, points, dict(excluded or {})))
    except DataError as error:
        problem = str(error)
    compared = {name: _try_compare(points, baseline, name, shifts[name]) for name in shifts}
    return AxisFit(law, card, problem, compared)


def _try_compare(
    points: Points, baseline: str, variant: str, shift: Shift
) -> Comparison | NoAnswer:
    try:
        return compare_arms(points, baseline, variant, shift)
    except (DataError, ValueError) as error:
        return NoAnswer(str(error))


def _predict_held_out(
    points: Points, n_rungs: int, baseline: str
) -> tuple[HoldoutCheck, ...] | None:
    if n_rungs == 0:
        return None
    try:
        return tuple(HoldoutCheck(**row) for row in holdout_errors(points, n_rungs, baseline))
    except DataError:
        return None


def _judge(
    spec: StudySpec, comparison: Comparison, fits: Fits, adjusted: Mapping[str, float | None]
) -> Verdict:
    arms = comparison.baseline, comparison.variant
    passed = None
    if fits.holdout is not None:
        passed = all(row.passed for row in fits.holdout if row.arm in arms)
    both = [tuning for tuning in fits.tuning if tuning.arm in arms]
    return decide(
        comparison,
        tuned=len(both) == 2 and all(tuning.done for tuning in both),
        rate_problem=next((f"arm {t.arm}: {t.problem}" for t in both if t.problem), None),
        holdout_passed=passed,
        demonstration=spec.demonstration,
        adjusted_p=adjusted.get(comparison.variant),
    )


def _count_reasons(times: Mapping[str, str]) -> str:
    """Return the reasons why times were left out, with their counts."""
    counts = Counter(times.values())
    return "left out: " + "; ".join(f"{n} runs {why}" for why, n in sorted(counts.items()))


def _compare_subsets(
    results: Results, baseline: str, variant: str, shift: Shift
) -> dict[str, SubsetEstimate]:
    """Return the pooled multiplier of every subset that all runs were scored on.

    Among many subsets some look different by chance, so p is adjusted by Holm's rule. The cost of
    a wrong rate is assumed to be the same, in ln loss, on every subset.
    """
    both = results.compared.where(lambda row: row.arm in (baseline, variant))
    scored = [
        {name for name, bits in row.subsets.items() if bits is not None and 0 < bits < math.inf}
        for row in both
    ]
    found: dict[str, Estimate] = {}
    for name in sorted(set.intersection(*scored)):
        comparison = _try_compare(both.points(subset=name), baseline, variant, shift)
        if isinstance(comparison, Comparison):
            found[name] = comparison.pooled
    adjusted = _adjust({name: pooled.p_value for name, pooled in found.items()})
    return {name: SubsetEstimate(**vars(p), p_holm=adjusted[name]) for name, p in found.items()}


def _compare_lengths(
    points: Points, baseline: str, variant: str, shift: Shift
) -> dict[str, Estimate | NoAnswer]:
    """Return the pooled multiplier of the runs of every length alone; {} with a single length.

    The lengths share their trunks' noise, so their differences are known better than the intervals
    suggest.
    """
    lengths = np.unique(points.branch).tolist()
    found: dict[str, Estimate | NoAnswer] = {}
    for length in lengths if len(lengths) > 1 else []:
        alone = _try_compare(points.where(points.branch == length), baseline, variant, shift)
        found[f"{length:g}"] = alone.pooled if isinstance(alone, Comparison) else alone
    return found


def _adjust(p_values: Mapping[str, float]) -> dict[str, float | None]:
    """Adjust p-values by Holm's rule, without those of tests that could not be made."""
    known = [None if math.isnan(p) else p for p in p_values.values()]
    return dict(zip(p_values, holm(known), strict=True))
