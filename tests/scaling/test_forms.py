"""Forms: equal to their formulas written out, gradients equal to differences, known laws found."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.scaling.bootstrap import bootstrap, draw_weights, profile_floor
from ladderlm.scaling.forms import Chinchilla, OverTraining, PowerLaw, Sample
from ladderlm.scaling.joint_form import Joint, Quadratic
from ladderlm.scaling.solve import OBJECTIVES, Problem, minimise, objective, refit

N = np.array([1e7, 1e7, 3e7, 3e7, 1e8, 1e8, 3e8, 3e8, 1e9, 1e9])
D = N * np.array([20, 80, 10, 20, 40, 5, 20, 160, 20, 5])
COLUMNS = {"params": N, "tokens": D, "flops": 6 * N * D}
ARM = np.array([0, 1] * 5)
SHORT = (D / N < 20).astype(np.int64)  # runs of another length


def plain_power(p, n, d, arm):
    return p["E"] + (6 * n * d / p["C0"]) ** -p["c"]


def plain_chinchilla(p, n, d, arm):
    return p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"]


def plain_overtraining(p, n, d, arm):
    c, m = 6 * n * d, d / n
    return p["E"] + (p["a"] * m ** p["h"] + p["b"] * m ** -p["h"]) * c ** -p["h"]


def plain_joint(p, n, d, arm):
    c_ref = math.exp(np.log(6 * N * D).mean())
    log_m = arm * (p["k0"] + p["k1"] * math.log(6 * n * d / c_ref))
    return p["E"] + (math.exp(log_m) * 6 * n * d / p["C0"]) ** -p["c"]


def plain_lengths(p, n, d, arm):
    short = d / n < 20
    reach = (plain_joint(p, n, d, arm) - p["E"]) ** (-1 / p["c"])
    return p["E"] + (reach * math.exp(p["ln_r"] * short)) ** -p["c"]


def plain_bend(p, n, d, arm):
    u = math.log(6 * n * d) - np.log(6 * N * D).mean()
    u += arm * (p["k0"] + p["k1"] * u) + p["ln_r"] * (d / n < 20)
    return p["L0"] * math.exp(-p["c"] * u - p["b"] * u**2 / 2)


def plain_quadratic(p, n, d, arm):
    u = math.log(6 * n * d / p["C_ref"])
    return p["L0"] * math.exp(-p["c"] * u - p["b"] * u**2 / 2)


ABSENT = -14.0  # ln E where there is none to speak of
CASES = {
    "power": (PowerLaw(), plain_power, [0.6, 0.3, 0.12]),
    "quadratic": (Quadratic(), plain_quadratic, [ABSENT, 0.9, 0.08, -0.006]),
    "chinchilla": (Chinchilla(), plain_chinchilla, [0.6, -0.4, -0.3, 0.34, 0.28]),
    "overtraining": (OverTraining(), plain_overtraining, [0.5, -0.2, -0.4, 0.12]),
    "joint": (Joint(), plain_joint, [0.6, 0.3, 0.12, 0.18, -0.03]),
    "joint of two lengths": (Joint(branches=1), plain_lengths, [0.6, 0.3, 0.12, 0.18, -0.03, -0.2]),
    "joint with a bend": (
        Joint(branches=1, bend=True),
        plain_bend,
        [ABSENT, 0.9, 0.08, 0.18, -0.03, -0.2, 0.006],
    ),
}


def made(name):
    form, plain, theta = CASES[name]
    sample = Sample.of(COLUMNS, ARM, SHORT)
    return form, plain, np.array(theta), sample


@pytest.mark.parametrize("name", CASES)
def test_a_form_is_its_formula(name):
    form, plain, theta, sample = made(name)
    public = {k: float(v) for k, v in form.public(theta, sample).items()}
    wanted = [plain(public, n, d, a) for n, d, a in zip(N, D, ARM, strict=True)]
    assert np.exp(form.log_loss(theta, sample)) == pytest.approx(
        wanted, rel=1e-9 if theta[0] != ABSENT else 1e-6
    )


@pytest.mark.parametrize("target", OBJECTIVES)
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_differences(name, target):
    form, _, theta, sample = made(name)
    loss = np.exp(form.log_loss(theta, sample)) * (1 + 0.01 * np.sin(np.arange(len(N))))
    problem = Problem.of(form, sample, loss, target)
    _, gradient = objective(problem, theta)
    for i in range(form.n_params):
        step = np.zeros_like(theta)
        step[i] = 1e-6
        up, down = objective(problem, theta + step)[0], objective(problem, theta - step)[0]
        # central differences of a double: 1e-9 absolute on values of 1e-4
        assert gradient[i] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-9)
    many = np.stack([theta, theta + 0.01])
    assert form.gradient(many, sample)[1][0] == pytest.approx(form.gradient(theta, sample)[1])


@pytest.mark.parametrize("name", CASES)
def test_a_known_law_comes_back_from_points_without_noise(name):
    form, _, theta, sample = made(name)
    loss, floor = np.exp(form.log_loss(theta, sample)), theta[0] != ABSENT
    problem = Problem.of(form, sample, loss, "log-least-squares", floor=floor)
    found = form.public(minimise(problem).theta, sample)
    for key, value in form.public(theta, sample).items():
        assert float(found[key]) == pytest.approx(float(value), rel=2e-3, abs=1e-4), key


@settings(max_examples=5, deadline=None)
@given(
    e=st.floats(0.3, 2.0),
    c=st.floats(0.05, 0.3),
    decades=st.floats(2, 5),
    top=st.floats(16, 25),
)
def test_a_power_law_comes_back_whatever_its_units(e, c, decades, top):
    flops = 10 ** np.linspace(top - decades, top, 8)
    loss = e + 1.5 * (flops / flops[4]) ** -c
    sample = Sample.of({"flops": flops})
    solution = minimise(Problem.of(PowerLaw(), sample, loss, "log-least-squares"))
    beyond = sample.where(flops == flops[-1])
    beyond = replace(beyond, logs={"flops": beyond.logs["flops"] + math.log(10)})
    wanted = e + 1.5 * (10 * flops[-1] / flops[4]) ** -c
    found = float(np.exp(PowerLaw().log_loss(solution.theta, beyond)[0]))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_huber_leaves_an_outlier_alone():
    form, _, theta, sample = made("power")
    loss = np.exp(form.log_loss(theta, sample))
    loss[3] *= 1.2
    solution = minimise(Problem.of(form, sample, loss))
    clean = np.arange(len(N)) != 3
    error = np.exp(form.log_loss(solution.theta, sample)) / loss - 1
    assert np.abs(error[clean]).max() < 2e-3
    squares = minimise(Problem.of(form, sample, loss, "least-squares"))
    error = np.exp(form.log_loss(squares.theta, sample)) / loss - 1
    assert np.abs(error[clean]).max() > 1e-2


@pytest.mark.parametrize("name", ["power", "joint"])
def test_draws_refitted_from_the_full_fit_equal_the_full_procedure(name):
    """The objective reached is that of a fit from scratch, or better, for every draw tried."""
    form, _, theta, sample = made(name)
    rng = np.random.default_rng(4)
    loss = np.exp(form.log_loss(theta, sample) + rng.normal(0, 0.004, len(N)))
    problem = Problem.of(form, sample, loss)
    solution = minimise(problem)
    weights = draw_weights(np.arange(len(N)), 4, form.n_params + 1, rng)
    _, quick = refit(problem, solution.theta, weight=weights, n_iterations=100, tolerance=1e-7)
    for weight, reached in zip(weights, quick, strict=True):
        whole = Problem.of(form, sample, loss, weight=weight)
        assert reached <= minimise(whole).value * 1.01 + 1e-9


def test_the_spread_of_draws_is_that_of_repeated_experiments():
    """The sd of c over 200 new experiments, and over draws of one: equal within a third.

    One experiment's draws know their own sd only to 1/sqrt(2 * 37), and its noise is its own.
    """
    flops = np.repeat(10 ** np.linspace(17, 21, 8), 5)
    sample = Sample.of({"flops": flops})
    truth = np.array([math.log(0.8), math.log(1.4), 0.15])
    rng = np.random.default_rng(2)
    log_loss = PowerLaw().log_loss(truth, sample) + rng.normal(0, 0.004, (200, len(flops)))
    problem = Problem.of(PowerLaw(), sample, np.exp(log_loss[0]), "log-least-squares")
    repeated = np.array([refit(replace(problem, log_loss=row), truth)[0][0] for row in log_loss])
    solution = minimise(problem)
    drawn = bootstrap(problem, solution, np.arange(len(flops)), 500)
    assert drawn[:, 2].std() == pytest.approx(repeated[:, 2].std(), rel=0.33)


def test_clusters_are_drawn_whole_and_poor_draws_again():
    clusters = np.array([0, 0, 1, 2, 2, 2, 3])
    weights = draw_weights(clusters, 300, 3, np.random.default_rng(0))
    for cluster in range(4):
        own = weights[:, clusters == cluster]
        assert (own == own[:, :1]).all()
    assert ((weights > 0)[:, [0, 2, 3, 6]].sum(axis=1) >= 3).all()
    assert weights[:, 0].mean() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(("decades", "known"), [(6.0, True), (1.0, False)])
def test_a_floor_is_known_from_many_decades_and_not_from_one(decades, known):
    flops = np.repeat(10 ** np.linspace(16, 16 + decades, 8), 2)
    rng = np.random.default_rng(1)
    loss = (1.7 + 1.5 * (flops / 1e18) ** -0.15) * np.exp(rng.normal(0, 0.002, len(flops)))
    problem = Problem.of(PowerLaw(), Sample.of({"flops": flops}), loss)
    solution = minimise(problem)
    other = minimise(Problem.of(PowerLaw(), problem.sample, loss, "least-squares"))
    profile = profile_floor(problem, solution, float(np.exp(other.theta[0])))
    assert profile.identified == known
    assert profile.low <= 1.7 <= profile.high
    assert min(profile.values) >= solution.value * (1 - 1e-6)
