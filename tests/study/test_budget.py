"""The share-out of a quickstart's minutes gives runs that exist, on any machine."""

from dataclasses import replace

import pytest

from ladderlm.model.accounting import count_params, train_flops_per_token
from ladderlm.run.presets import preset
from ladderlm.study.budget import (
    ASPECT_RATIO,
    FINAL_TOKENS_PER_PARAM,
    N_RUNGS,
    REPORT_SECONDS,
    Budget,
    choose_final_shape,
    plan_budget,
    plan_final,
)
from ladderlm.study.ladder import ShapeGrid, Target, choose_shape


@pytest.mark.parametrize("minutes", [0.5, 1, 5])
@pytest.mark.parametrize("n_cores", [1, 2])
def test_every_run_of_a_budget_has_a_shape_on_slow_and_fast_machines(minutes, n_cores):
    base = preset("llama")
    base = replace(base, model=replace(base.model, vocab_size=2048))
    seq_len = base.data.seq_len
    grid = ShapeGrid(base.model, seq_len, ASPECT_RATIO)
    for one in (1.5e10, 4e10):
        for speed_up in (1.1, 1.9):
            budget = plan_budget(base, minutes, n_cores, one)
            assert len(budget.flops) == N_RUNGS
            assert budget.flops[-1] >= 10 * budget.flops[0]
            for flops in budget.flops:
                choose_shape(flops, Target(budget.tokens_per_param), grid)
            final = plan_final(budget, 60 * minutes * 0.5, one * speed_up)
            assert final >= 1.5 * budget.flops[-1]
            shape = choose_final_shape(base, final)
            tokens = final / train_flops_per_token(shape, seq_len)
            ratio = tokens / count_params(shape).n_matmul / FINAL_TOKENS_PER_PARAM
            assert 0.6 < ratio < 1.7


def test_the_final_run_takes_the_time_that_is_left():
    budget = Budget((1e10, 2e10, 4e10, 1e11), 8.0)
    assert plan_final(budget, 150, 3e10) == (150 - REPORT_SECONDS) * 3e10
    assert plan_final(budget, -60, 3e10) == 1.5e11  # late, but still the best model
