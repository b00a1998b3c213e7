"""The predicted time and memory of a study, from short runs of a few of its shapes.

Owns the probe of this machine, with runs packed as the study packs them, and the interpolation of
its figures to all runs.
"""

import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ladderlm.config import to_dict
from ladderlm.data.shards import Split
from ladderlm.errors import ExecutorError
from ladderlm.executors.base import Job, Resources, State, run_jobs
from ladderlm.executors.local import LocalExecutor
from ladderlm.files import publish_json, read_json
from ladderlm.model.accounting import count_params
from ladderlm.run.resolve import open_splits
from ladderlm.study.plan import StudyPlan
from ladderlm.study.planner import PlannedRun

__all__ = [
    "Cost",
    "ProbedShape",
    "estimate_memory",
    "predict",
    "predict_all",
    "probe",
    "probed_runs",
]

PROBE_SECONDS = 50.0  # of wall time; shapes that do not fit in are left out
# Memory of a run on a CPU, from short runs of four shapes, 74 to 870 thousand parameters, on 2
# cores of an AMD EPYC (Zen 2): within 6 % of their 393 to 535 MB.
PROCESS_BYTES = 400e6  # Python, PyTorch and the other packages
PARAMETER_BYTES = 16  # weight, gradient and two moments in float32
ACTIVATION_BYTES = 110  # per token of a micro-batch, layer and channel


def estimate_memory(run: PlannedRun) -> int:
    """Estimate the memory of a run in bytes without a probe, to pack runs by it."""
    model, config = run.config.model, run.config
    rows = min(config.execution.micro_batch_seqs or 1, config.global_batch_seqs)
    held = 0.0
    if config.execution.device == "cpu":  # a GPU's memory is the run's own
        held = ACTIVATION_BYTES * rows * config.data.seq_len * model.n_layers * model.dim
    return int(PROCESS_BYTES + PARAMETER_BYTES * count_params(model).total + held)


@dataclass(frozen=True)
class ProbedShape:
    """The figures of a short run of one planned run's shape; see `bench.probe`."""

    run: PlannedRun
    step_seconds: float
    checkpoint_seconds: float
    eval_seconds_per_token: float
    end_seconds: float
    start_seconds: float
    memory_bytes: float

    @property
    def flops_per_second(self) -> float:
        """Training FLOPs per second of the steps alone."""
        return self.run.rung.flops / self.run.rung.n_steps / self.step_seconds


@dataclass(frozen=True)
class Cost:
    """The predicted cost of a run.

    Args:
        seconds: wall time of its whole process.
        device_seconds: of its steps alone.
        memory_bytes: peak.
    """

    seconds: float
    device_seconds: float
    memory_bytes: float


def probed_runs(plan: StudyPlan) -> list[PlannedRun]:
    """Choose runs to probe: the baseline's lowest, middle and top rung, the others' middle."""
    baseline = plan.spec.arms[0].name
    rungs = sorted({run.rung.index for run in plan.ladder})
    middle = rungs[len(rungs) // 2]
    wanted = [(baseline, rung) for rung in (rungs[0], middle, rungs[-1])]
    wanted += [(arm.name, middle) for arm in plan.spec.arms[1:]]
    chosen = []
    for arm, rung in dict.fromkeys(wanted):
        chosen += [r for r in plan.ladder if (r.arm, r.rung.index) == (arm, rung)][:1]
    return chosen


def probe(
    plan: StudyPlan, n_at_once: int, budget_seconds: float = PROBE_SECONDS
) -> list[ProbedShape]:
    """Try shapes of a plan on this machine, in as many concurrent processes as the runs will be.

    Args:
        n_at_once: processes, whose figures are averaged.
        budget_seconds: shapes that would take longer than this together are left out.

    Raises:
        ExecutorError: a short run failed; quotes its log.
    """
    runs = probed_runs(plan)
    execution = runs[0].config.execution
    resources = Resources(n_devices=int(execution.device == "cuda"))
    n_threads = str(execution.n_threads or 1)
    request = {"configs": [to_dict(run.config) for run in runs], "budget_seconds": budget_seconds}
    with tempfile.TemporaryDirectory(prefix="ladderlm-probe-") as name:
        folder = Path(name)
        publish_json(folder / "request.json", request)
        jobs = []
        for i in range(n_at_once):
            files = (str(folder / "request.json"), str(folder / f"measured-{i}.json"))
            argv = (sys.executable, "-m", "ladderlm.bench.probe", *files)
            threads = {"OMP_NUM_THREADS": n_threads, "MKL_NUM_THREADS": n_threads}
            jobs.append(Job(f"probe-{i}", argv, folder / f"{i}.log", threads, resources=resources))
        for outcome in run_jobs(LocalExecutor(n_at_once), jobs, max_tries=1):
            if outcome.state is not State.DONE:
                said = outcome.job.log.read_text(encoding="utf-8", errors="replace")
                raise ExecutorError(
                    f"a short run of this study failed: {said.strip()[-800:]}",
                    "the study's own runs would fail in the same way",
                    "fix it, or plan without a probe (--no-probe)",
                )
        tables = [read_json(folder / f"measured-{i}.json") for i in range(n_at_once)]
    found = []
    for run, *rows in zip(runs, *tables, strict=False):  # as many as all had time for
        mean = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
        found.append(ProbedShape(run, **mean))
    return found


def predict_all(plan: StudyPlan, found: Sequence[ProbedShape]) -> dict[str, Cost]:
    """Predict the costs of all runs of a plan, by run id."""
    costs: dict[str, Cost] = {}
    opened: dict[tuple[str | None, ...], Split] = {}
    for run in plan.runs:
        key = (run.config.data.path, run.config.eval.path, run.config.eval.split)
        if key not in opened:
            opened[key] = open_splits(run.config)[2]
        val = opened[key]
        n_final = int(val.offsets[min(run.config.eval.n_documents, val.n_documents)])
        costs[run.run_id] = predict(run, found, int(val.offsets[-1]), n_final)
    return costs


def predict(run: PlannedRun, found: Sequence[ProbedShape], n_val_tokens: int, n_final: int) -> Cost:
    """Predict the cost of a run.

    Figures of the baseline are interpolated over the logarithm of N, and beyond the probed shapes
    those of the nearest are used. Another arm has its own speed relative to the baseline, as
    measured at the rung where both were probed.

    Args:
        found: at least one, the first of the baseline.
        n_val_tokens: of the validation split.
        n_final: tokens scored at the end.
    """
    baseline = found[0].run.arm
    same = [one for one in found if one.run.arm == baseline]

    def interpolate(name: str, at: PlannedRun = run) -> float:
        known = {math.log(one.run.rung.n_matmul): float(getattr(one, name)) for one in same}
        sizes = sorted(known)
        return float(np.interp(math.log(at.rung.n_matmul), sizes, [known[x] for x in sizes]))

    speed = interpolate("flops_per_second")
    for one in found:
        if one.run.arm == run.arm != baseline:
            speed *= one.flops_per_second / interpolate("flops_per_second", one.run)
    config, device_seconds = run.config, run.flops_to_spend / speed
    n_saved = math.ceil(run.rung.n_steps / (config.checkpoint.every_steps or run.rung.n_steps))
    head = min(config.eval.head_tokens or n_val_tokens, n_val_tokens)
    n_scored = len(config.eval_steps) * head + n_final
    seconds = (
        interpolate("start_seconds")
        + device_seconds
        + n_scored * interpolate("eval_seconds_per_token")
        + n_saved * interpolate("checkpoint_seconds")
        + interpolate("end_seconds")
    )
    return Cost(seconds, device_seconds, interpolate("memory_bytes"))
