"""Studies whose losses are a formula: an executor that makes finished runs without training."""

from collections.abc import Callable, Collection
from pathlib import Path

from builders import InOwnProcess
from ladderlm.config import from_dict, read_config_file
from ladderlm.executors.base import Job
from ladderlm.files import publish_json
from ladderlm.model.accounting import count_params, train_flops_6nd, train_flops_per_token
from ladderlm.study.launch import launch
from ladderlm.study.plan import StudyPlan, plan_study
from ladderlm.study.spec import StudySpec
from ladderlm.training.run_config import RunConfig

__all__ = ["Planted", "carry_out"]


class Planted(InOwnProcess):
    """Runs end at once, with the loss that a formula gives for their FLOPs and config.

    Args:
        loss: (flops, config) -> bits per byte; None: the run fails.
    """

    def __init__(self, loss: Callable[[float, RunConfig], float | None]) -> None:
        super().__init__()
        self.loss = loss

    def submit(self, job: Job) -> str:
        """Write the summary of a finished or failed run."""
        config = from_dict(RunConfig, read_config_file(job.argv[-1]))
        self.started.append(job.name)
        n = config.train.n_steps * config.train.global_batch_tokens
        loss = self.loss(train_flops_per_token(config.model, config.data.seq_len) * n, config)
        last = {"loss": loss, "bits_per_byte": loss, "subsets": {}}
        publish_json(
            job.log.parent / "summary.json",
            {
                "status": "failed" if loss is None else "finished",
                "n_params": vars(count_params(config.model)),
                "flops_6nd": train_flops_6nd(config.model, n),
                "timing": {"seconds": 1.0, "device_seconds": 1.0},
                "hardware": "none",
                "n_steps": config.train.n_steps,
                "evals": {"val": {"last": last, "best": last}},
            },
        )
        self.codes[job.name] = 1 if loss is None else 0
        return job.name


def carry_out(spec: StudySpec, pool: Path, executor: InOwnProcess) -> list[StudyPlan]:
    """Launch a study from its first run to its last; give all its plans, of which no two equal."""
    plans = [plan_study(spec, pool, ())]

    def replan(given_up: Collection[str]) -> StudyPlan:
        plan = plan_study(spec, pool, given_up)
        if plan.settled != plans[-1].settled:
            plans.append(plan)
        return plan

    launch(plans[0], pool, executor, replan=replan)
    last = plan_study(spec, pool)
    assert last.settled == plans[-1].settled
    return [*plans[:-1], last]
