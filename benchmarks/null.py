"""How often a study finds a difference where there is none, in real runs.

One config is trained with many seeds on every rung of a ladder. The pool of runs is then cut at
random, many times, into two arms of different seeds, and each pair of arms is judged by the code
that judges studies: whatever it finds is an error. Killed and started again it goes on.

    python benchmarks/null.py --data data/local-1k --out null
"""
# ruff: noqa: T201

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from ladderlm.config import replace_all
from ladderlm.executors.local import LocalExecutor
from ladderlm.run.presets import preset
from ladderlm.scaling.compare import compare_arms
from ladderlm.scaling.joint import fit_law, prediction_errors
from ladderlm.scaling.points import Points
from ladderlm.study.launch import launch
from ladderlm.study.options import LadderOptions
from ladderlm.study.plan import plan_study
from ladderlm.study.results import collect_results
from ladderlm.study.spec import Arm, StudySpec
from ladderlm.study.verdict import decide

ARMS = ("one", "other")


def cut(pool: Points, n_seeds: int, rng: np.random.Generator) -> Points:
    """Draw two arms of `n_seeds` seeds each; the k-th seed of both counts as a pair."""
    drawn = rng.permutation(np.unique(pool.seed))[: 2 * n_seeds].reshape(2, n_seeds)
    parts = []
    for arm, seeds in zip(ARMS, drawn, strict=True):
        for place, seed in enumerate(seeds):
            own = pool.where(pool.seed == seed)
            names = np.array([arm] * len(own))
            parts.append(replace(own, arm=names, seed=np.full(len(own), place)))
    return Points(*(np.concatenate(columns) for columns in zip(*map(_columns, parts), strict=True)))


def _columns(points: Points) -> list[np.ndarray]:
    return list(vars(points).values())


def judge(points: Points) -> dict[str, object]:
    """Return the word of the rules by numbers, whether the hold-out passed, and the pooled m."""
    comparison = compare_arms(points, *ARMS)
    is_top = points.rung == points.rung.max()
    rows = prediction_errors(fit_law(points.where(~is_top), ARMS[0]), points.where(is_top))
    passed = all(row["passed"] for row in rows)
    verdict = decide(comparison, tuned=True, holdout_passed=passed, demonstration=False)
    covered = comparison.pooled.low_95 <= 1 <= comparison.pooled.high_95
    return {"word": verdict.word, "by_numbers": verdict.would_be, "passed": passed} | {
        "m": comparison.pooled.value,
        "covered": covered,
    }


def main() -> None:
    """Train what is missing, cut, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--flops", type=float, nargs="+", default=[1.08e11, 2.4e11, 4.6e11, 1.24e12]
    )
    parser.add_argument("--tokens-per-param", type=float, default=10.5)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--cuts", type=int, default=200)
    args = parser.parse_args()
    base = replace_all(preset("llama"), {"data.path": args.data, "eval.n_samples": 0})
    spec = StudySpec(
        name="null",
        question="",
        rationale="",
        base=base,
        ladder=LadderOptions(
            flops=tuple(args.flops),
            tokens_per_param=args.tokens_per_param,
            min_layers=2,  # shapes on one line, 24 to 56 wide
            seeds=tuple(range(1, args.seeds + 1)),
            noise_seeds=0,
        ),
        arms=(Arm("same"),),
        pool=None,
        demonstration=False,
    )
    pool = args.out / "runs"
    plan = plan_study(spec, pool)
    print(f"{len(plan.runs)} runs, {plan.flops:.3g} FLOPs", flush=True)
    launch(plan, pool, LocalExecutor(), lambda run, state: print(run.run_id, state, flush=True))
    results = collect_results(plan, pool)
    results.write(args.out / "results.csv")
    points = results.points()
    within = [points.loss[points.rung == rung] for rung in np.unique(points.rung)]
    found: dict[str, object] = {
        "n_runs": len(points),
        "seed_sd": [float(np.std(np.log(loss), ddof=1)) for loss in within],
    }
    for n_seeds in (2, args.seeds // 2):
        rng = np.random.default_rng(0)
        judged = [judge(cut(points, n_seeds, rng)) for _ in range(args.cuts)]
        found[f"{n_seeds} seeds an arm"] = {
            "words": dict(Counter(str(j["word"]) for j in judged)),
            "words_by_numbers": dict(Counter(str(j["by_numbers"]) for j in judged)),
            "holdout_failed": sum(not j["passed"] for j in judged),
            "coverage_95": sum(bool(j["covered"]) for j in judged) / len(judged),
            "median_m": float(np.median([float(str(j["m"])) for j in judged])),
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
