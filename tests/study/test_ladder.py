"""The arithmetic of a ladder: shapes on a grid, budgets met to a step, honest refusals."""

import itertools
import math
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ladderlm.errors import ConfigError
from ladderlm.model.accounting import count_params, train_flops_per_token
from ladderlm.model.config import ModelConfig
from ladderlm.study.ladder import (
    ShapeGrid,
    Target,
    batch_tokens,
    choose_shape,
    plan_rung,
    shapes,
    snap_budgets,
)

SEQ_LEN = 128


@st.composite
def bases(draw):
    """Bases of a ladder: head sizes, grouped heads, both MLPs, small and large vocabularies."""
    head_dim = draw(st.sampled_from([4, 8, 16]))
    n_heads = draw(st.sampled_from([1, 2, 4, 8]))
    groups = [k for k in (1, 2, 4, 8) if n_heads % k == 0]
    return ModelConfig(
        dim=head_dim * n_heads,
        n_layers=2,
        n_heads=n_heads,
        n_kv_heads=draw(st.sampled_from([None, *(n_heads // k for k in groups)])),
        vocab_size=draw(st.sampled_from([256, 2048, 32000])),
        mlp=draw(st.sampled_from(["swiglu", "gelu"])),
        multiple_of=draw(st.sampled_from([8, 32])),
    )


ASPECTS = st.sampled_from([32.0, 64.0])  # the grid of a slender one takes longer
RATIOS = st.floats(0.25, 100)


def tokens_per_param(shape, budget):
    return budget / train_flops_per_token(shape, SEQ_LEN) / count_params(shape).n_matmul


@given(base=bases(), aspect=ASPECTS, min_layers=st.integers(1, 4))
@settings(max_examples=8)
def test_every_shape_keeps_the_head_size_and_the_proportions(base, aspect, min_layers):
    for shape in shapes(ShapeGrid(base, SEQ_LEN, aspect, min_layers=min_layers)):
        assert shape.n_layers >= min_layers
        assert shape.head_dim == base.head_dim
        assert shape.n_heads // shape.kv_heads == base.n_heads // base.kv_heads
        assert shape.mlp == base.mlp
        assert shape.vocab_size == base.vocab_size
        slender = shape.dim / shape.n_layers / aspect
        assert slender <= 2 or shape.n_layers == math.ceil(shape.dim / aspect / 2)
        assert slender >= 0.5 or shape.n_layers == min_layers


@given(base=bases(), aspect=ASPECTS, ratio=RATIOS, exponent=st.floats(8, 19))
@settings(max_examples=8)
def test_a_chosen_shape_meets_its_ratio_or_the_refusal_names_a_budget_that_works(
    base, aspect, ratio, exponent
):
    budget = 10**exponent
    try:
        shape = choose_shape(budget, Target(ratio), ShapeGrid(base, SEQ_LEN, aspect))
    except ConfigError as error:
        named = float(re.search(r"is (\S+) FLOPs", error.fix)[1])
        shape = choose_shape(named, Target(ratio), ShapeGrid(base, SEQ_LEN, aspect))
        assert 1 / 1.2 <= tokens_per_param(shape, named) / ratio <= 1.2
    else:
        # the edge itself may fall on either side by rounding
        assert 1 / 1.2 - 1e-9 <= tokens_per_param(shape, budget) / ratio <= 1.2 + 1e-9
        assert shape in shapes(ShapeGrid(base, SEQ_LEN, aspect))


@given(base=bases(), aspect=ASPECTS, ratio=RATIOS, place=st.integers(0, 10_000))
@settings(max_examples=8)
def test_the_natural_budget_of_a_shape_is_never_refused(base, aspect, ratio, place):
    grid = shapes(ShapeGrid(base, SEQ_LEN, aspect))
    shape = grid[place % len(grid)]
    budget = Target(ratio).budget(shape, SEQ_LEN)
    assert tokens_per_param(shape, budget) == pytest.approx(ratio)
    chosen = choose_shape(budget, Target(ratio), ShapeGrid(base, SEQ_LEN, aspect))
    assert 1 / 1.2 <= tokens_per_param(chosen, budget) / ratio <= 1.2


def test_a_budget_below_the_smallest_shape_is_refused_with_the_smallest_that_works():
    base = ModelConfig(dim=64, n_heads=8, n_layers=2, vocab_size=2048)
    smallest = min(Target(20).budget(s, SEQ_LEN) for s in shapes(ShapeGrid(base, SEQ_LEN, 32.0)))
    with pytest.raises(ConfigError) as caught:
        choose_shape(smallest / 10, Target(20), ShapeGrid(base, SEQ_LEN, 32.0))
    assert f"{smallest:.3g} FLOPs" in caught.value.fix
    assert "tokens per parameter, not 20" in caught.value.what


@given(
    base=bases(),
    ratio=st.floats(0.5, 50),
    exponent=st.floats(8, 15),
    n_rungs=st.integers(2, 6),
    decades=st.floats(1, 2.5),
)
@settings(max_examples=6)
def test_snapped_budgets_rise_span_what_was_asked_and_are_met_by_a_shape(
    base, ratio, exponent, n_rungs, decades
):
    span, grid = 10**decades, ShapeGrid(base, SEQ_LEN, 32.0)
    top = max(Target(ratio).budget(shape, SEQ_LEN) for shape in shapes(grid))
    assume(10**exponent * span < top / 10)
    budgets = snap_budgets(10**exponent, n_rungs, span, ratio, grid)
    assert len(budgets) == n_rungs
    assert all(a < b for a, b in itertools.pairwise(budgets))
    assert budgets[-1] / budgets[0] >= span
    for budget in budgets:
        assert budget == float(f"{budget:.3g}")  # as they stand in the study file
        shape = choose_shape(budget, Target(ratio), grid)
        assert 1 / 1.2 - 1e-9 <= tokens_per_param(shape, budget) / ratio <= 1.2 + 1e-9


def test_a_ladder_beyond_the_grid_is_refused():
    base = ModelConfig(dim=64, n_heads=8, n_layers=2, vocab_size=2048)
    with pytest.raises(ConfigError, match="a ladder from") as caught:
        snap_budgets(1e16, 4, 1e12, 20, ShapeGrid(base, SEQ_LEN, 32.0))
    assert "lower the budget or the span" in caught.value.fix


@given(
    n_tokens=st.floats(1, 1e9),
    rows=st.integers(1, 64),
    seq_len=st.sampled_from([32, 128]),
    min_updates=st.integers(1, 2000),
)
def test_a_batch_is_whole_rows_and_only_ever_shrinks(n_tokens, rows, seq_len, min_updates):
    batch = batch_tokens(n_tokens, rows * seq_len, seq_len, min_updates)
    assert batch % seq_len == 0
    assert seq_len <= batch <= rows * seq_len
    if batch > seq_len:
        assert n_tokens / batch >= min_updates
    if batch < rows * seq_len:  # one row more would leave too few updates
        assert n_tokens / (batch + seq_len) < min_updates


@given(
    base=bases(),
    exponent=st.floats(9, 16),
    rows=st.integers(1, 64),
    min_updates=st.integers(1, 1000),
)
def test_a_rung_meets_its_flops_to_one_step(base, exponent, rows, min_updates):
    budget = 10**exponent
    per_token = train_flops_per_token(base, SEQ_LEN)
    batch = batch_tokens(budget / per_token, rows * SEQ_LEN, SEQ_LEN, min_updates)
    rung = plan_rung(3, budget, base, batch, SEQ_LEN)
    per_step = per_token * batch
    assert rung.global_batch_tokens == batch
    assert rung.flops == pytest.approx(per_step * rung.n_steps)
    if rung.n_steps > 1:
        assert abs(rung.flops - budget) <= per_step / 2 * (1 + 1e-9)
    else:
        assert budget <= 1.5 * per_step
    assert rung.n_tokens == rung.n_steps * rung.global_batch_tokens
    assert rung.n_matmul == count_params(base).n_matmul
    assert rung.tokens_per_param == rung.n_tokens / rung.n_matmul
    assert (rung.index, rung.budget, rung.model) == (3, budget, base)


def test_a_rung_by_hand():
    """N = 2 * (4 * 16^2 + 2 * 16 * 64) + 100 * 16; FLOPs a token 3 * (2 N + 4 * 16 * 4.5 * 2)."""
    shape = ModelConfig(dim=16, n_layers=2, n_heads=2, vocab_size=100, mlp="gelu")
    n_matmul = 2 * (4 * 256 + 2 * 16 * 64) + 1600
    per_token = 3 * (2 * n_matmul + 4 * 16 * 4.5 * 2)
    rung = plan_rung(0, 10.4 * 80 * per_token, shape, batch_tokens(10.4 * 80, 80, 8, 5), 8)
    assert (rung.n_matmul, rung.n_steps, rung.global_batch_tokens) == (n_matmul, 10, 80)
    assert rung.flops == 800 * per_token
    assert rung.tokens_per_param == 800 / n_matmul
