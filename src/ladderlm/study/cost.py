"""What a study will take, from short runs of a few of its shapes.

Owns the probe of this machine and the model that carries its figures over to all runs. Times are
those of runs packed as the study will pack them.
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


# What a run on a CPU holds, from short runs of four shapes, 74 to 870 thousand parameters, on
# 2 cores of an AMD EPYC (Zen 2): within 6 % of their 393 to 535 MB.
PROCESS_BYTES = 400e6  # Python, PyTorch and the other packages
PARAMETER_BYTES = 16  # weight, gradient and two moments in float32
ACTIVATION_BYTES = 110  # per token of a micro-batch, layer and channel


def estimate_memory(run: PlannedRun) -> int:
    """Return about the bytes of memory that a run will hold, by which runs are packed.

    A probe measures it for the shapes that it tries; this needs none.
    """
    model, config = run.config.model, run.config
    rows = min(config.execution.micro_batch_seqs or 1, config.global_batch_seqs)
    held = 0.0
    if config.execution.device == "cpu":  # a GPU's memory is the run's own
        held = ACTIVATION_BYTES * rows * config.data.seq_len * model.n_layers * model.dim
    return int(PROCESS_BYTES + PARAMETER_BYTES * count_params(model).total + held)


@dataclass(frozen=True)
class ProbedShape:
    """What a short run of one planned run's shape took; see `run.probe`."""

    run: PlannedRun
    step_seconds: float
    checkpoint_seconds: float
    eval_seconds_per_token: float
    end_seconds: float
    start_seconds: float
    memory_bytes: float

    @property
    def flops_per_second(self) -> float:
        """Training FLOPs over time, steps alone."""
        return self.run.rung.flops / self.run.rung.n_steps / self.step_seconds


@dataclass(frozen=True)
class Cost:
    """What a run will take.

    Args:
        seconds: wall time of its process, all in.
        device_seconds: of its steps alone.
        memory_bytes: the largest that it holds.
    """

    seconds: float
    device_seconds: float
    memory_bytes: float


def probed_runs(plan: StudyPlan) -> list[PlannedRun]:
    """Choose what to try: the baseline's lowest, middle and top rung, then the others' middle."""
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
    """Try shapes of a plan on this machine, in as many processes side by side as runs will be.

    Args:
        n_at_once: processes; their mean is taken.
        budget_seconds: no further shape is tried that would not fit in.

    Raises:
        ExecutorError: a short run cannot be carried out; holds what its log says.
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
    """Predict what every run of a plan takes, by run id."""
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
    """Predict what a run takes.

    FLOPs per second, and the other figures likewise, go from shape to shape in proportion to the
    logarithm of N; a run beyond the shapes that were tried gets those of the nearest. An arm other
    than the baseline has the baseline's figures, and its own speed relative to it, as found at the
    rung where both were tried.

    Args:
        found: at least one, the first of the baseline.
        n_val_tokens: of the validation split.
        n_final: tokens scored at the end.
    """
    same = [one for one in found if one.run.arm == found[0].run.arm]
    own = [one for one in found if one.run.arm == run.arm] if run.arm != same[0].run.arm else []
    speed = _between(same, run, "flops_per_second")
    for one in own:
        speed *= one.flops_per_second / _between(same, one.run, "flops_per_second")
    config = run.config
    device_seconds = run.flops_to_spend / speed
    n_scored = len(config.eval_steps)
    n_saved = math.ceil(run.rung.n_steps / (config.checkpoint.every_steps or run.rung.n_steps))
    head = min(config.eval.head_tokens or n_val_tokens, n_val_tokens)
    seconds = (
        _between(same, run, "start_seconds")
        + device_seconds
        + (n_scored * head + n_final) * _between(same, run, "eval_seconds_per_token")
        + n_saved * _between(same, run, "checkpoint_seconds")
        + _between(same, run, "end_seconds")
    )
    return Cost(seconds, device_seconds, _between(same, run, "memory_bytes"))


def _between(found: Sequence[ProbedShape], run: PlannedRun, name: str) -> float:
    """Interpolate a figure to the shape of a run."""
    known = {math.log(one.run.rung.n_matmul): float(getattr(one, name)) for one in found}
    at = sorted(known)
    return float(np.interp(math.log(run.rung.n_matmul), at, [known[x] for x in at]))
