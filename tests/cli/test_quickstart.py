"""The share-out of a quickstart's minutes gives runs that exist, on any machine."""

from dataclasses import replace

import pytest

from ladderlm.cli.quickstart import (
    ASPECT_RATIO,
    FINAL_TOKENS_PER_PARAM,
    N_RUNGS,
    VOCAB_SIZE,
    plan_budget,
)
from ladderlm.run.presets import preset
from ladderlm.study.ladder import Target, choose_shape


@pytest.mark.parametrize("minutes", [0.5, 1, 5])
@pytest.mark.parametrize("n_cores", [1, 2])
def test_every_run_of_a_budget_has_a_shape_on_slow_and_fast_machines(minutes, n_cores):
    base = preset("llama")
    base = replace(base, model=replace(base.model, vocab_size=VOCAB_SIZE))
    seq_len = base.data.seq_len
    for one in (1.5e10, 4e10):
        for speed_up in (1.1, 1.9):
            budget = plan_budget(base, minutes, n_cores, one, one * speed_up)
            assert len(budget.flops) == N_RUNGS
            assert budget.flops[-1] >= 10 * budget.flops[0]
            for flops in budget.flops:
                choose_shape(
                    flops, Target(budget.tokens_per_param), base.model, seq_len, ASPECT_RATIO
                )
            final = budget.final_flops
            choose_shape(final, Target(FINAL_TOKENS_PER_PARAM), base.model, seq_len, ASPECT_RATIO)
            assert final > 0.7 * budget.flops[-1]
