"""Learning rate: end values by hand, and what holds for every length."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.errors import ConfigError
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.schedule import count_stable_steps, learning_rate_at


def rates(n_steps, **fields):
    config = OptimConfig(learning_rate=1.0, **fields)
    return [learning_rate_at(config, step, n_steps) for step in range(n_steps)]


def test_cosine_values_by_hand():
    found = rates(101, schedule="cosine", warmup_fraction=0.0, final_lr_fraction=0.1)
    assert found[0] == 1.0
    assert found[25] == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert found[50] == pytest.approx(0.55)
    assert found[100] == pytest.approx(0.1)


def test_warm_up_is_linear_from_one_share_to_the_peak():
    for schedule in ("cosine", "wsd", "linear"):
        found = rates(100, schedule=schedule, warmup_fraction=0.1, decay_fraction=0.3)
        assert found[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert max(found) == pytest.approx(1.0)


def test_wsd_values_by_hand():
    found = rates(
        100, schedule="wsd", warmup_fraction=0.1, decay_fraction=0.2, final_lr_fraction=0.1
    )
    assert found[9:80] == [1.0] * 71
    assert found[89] == pytest.approx(0.1 + 0.9 * 0.5)
    assert found[99] == pytest.approx(0.1)
    steps = [a - b for a, b in itertools.pairwise(found[79:])]
    assert steps == pytest.approx([0.9 / 20] * 20)


def test_linear_values_by_hand():
    found = rates(111, schedule="linear", warmup_fraction=10 / 111, final_lr_fraction=0.1)
    assert found[9:12] == pytest.approx([1.0, 1.0, 1.0 - 0.9 / 100])
    assert found[60] == pytest.approx(0.55)
    assert found[110] == pytest.approx(0.1)


@given(
    short=st.integers(2, 300),
    more=st.integers(0, 300),
    warmup=st.integers(0, 100),
    decay=st.floats(0.0, 1.0),
    final=st.floats(0.0, 1.0),
)
def test_with_an_absolute_warm_up_the_rates_of_a_longer_wsd_run_begin_alike(
    short, more, warmup, decay, final
):
    fields = {"schedule": "wsd", "warmup_steps": warmup, "decay_fraction": decay}
    one, other = (rates(n, **fields, final_lr_fraction=final) for n in (short, short + more))
    n = count_stable_steps(OptimConfig(**fields), short)
    assert one[:n] == other[:n]  # to the bit
    assert one[min(warmup, n) : n] == [1.0] * (n - min(warmup, n))
    if warmup < n < short - 1 and final < 0.99:
        assert one[n + 1] < 1.0


def test_an_absolute_warm_up_stands_in_for_the_share():
    found = rates(100, schedule="cosine", warmup_fraction=0.5, warmup_steps=4)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found == rates(100, schedule="cosine", warmup_fraction=0.04)


FRACTIONS = st.floats(0.0, 0.5)


@given(
    n_steps=st.integers(3, 400),
    schedule=st.sampled_from(["cosine", "wsd", "linear"]),
    warmup=FRACTIONS,
    decay=FRACTIONS,
    final=st.floats(0.0, 1.0),
)
def test_the_rate_rises_to_its_peak_and_falls_to_its_end_without_a_jump(
    n_steps, schedule, warmup, decay, final
):
    found = rates(
        n_steps,
        schedule=schedule,
        warmup_fraction=warmup,
        decay_fraction=decay,
        final_lr_fraction=final,
    )
    n_warmup, n_decay = math.ceil(warmup * n_steps), max(math.ceil(decay * n_steps), 1)
    begin = max(n_warmup - 1, 0)
    assert all(0 <= rate <= 1 + 1e-12 for rate in found)
    assert found[: begin + 1] == sorted(found[: begin + 1])
    assert found[begin:] == sorted(found[begin:], reverse=True)
    if n_warmup < n_steps - 1:
        assert found[-1] == pytest.approx(final)
    if schedule == "wsd" and n_warmup + n_decay > n_steps:
        return  # rounded up to whole steps, warm-up and cooldown share one
    span = max(n_steps - 1 - n_warmup, 1)
    steepest = {"cosine": math.pi / 2 / span, "linear": 1 / span, "wsd": 1 / n_decay}
    largest_step = (1 - final) * steepest[schedule]
    falls = [a - b for a, b in itertools.pairwise(found[begin:])]
    assert all(fall <= largest_step + 1e-9 for fall in falls)


@given(n_steps=st.integers(1, 5), schedule=st.sampled_from(["cosine", "wsd"]))
def test_the_shortest_runs_have_finite_positive_rates(n_steps, schedule):
    found = rates(n_steps, schedule=schedule)
    assert all(math.isfinite(rate) and 0 < rate <= 1 for rate in found)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"beta2": 1.0}, "beta2"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"grad_clip": 0.0}, "grad_clip"),
        ({"schedule": "wsd", "warmup_fraction": 0.6, "decay_fraction": 0.5}, "warmup_fraction"),
        ({"final_lr_fraction": 1.5}, "final_lr_fraction"),
        ({"warmup_steps": -1}, "warmup_steps"),
    ],
)
def test_impossible_constants_are_refused_by_name(fields, word):
    with pytest.raises(ConfigError, match=word):
        OptimConfig(**fields)
