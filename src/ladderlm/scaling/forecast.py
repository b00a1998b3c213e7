"""Owns the forecast of a rung's mean loss from the law of the rungs below, with its intervals."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ladderlm.scaling.joint import LadderLaw

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True)
class Forecast:
    """The predicted mean loss of `n_runs` runs of one arm at one x.

    The intervals include the error of the law and the noise of the runs.
    """

    arm: str
    x: float
    n_runs: int
    value: float
    low_90: float
    high_90: float
    low_95: float
    high_95: float


def forecast(law: LadderLaw, arm: str, x: float, n_runs: int, branch: float = 1.0) -> Forecast:
    """Predict runs of relative length `branch`, with t intervals in ln L from law and noise."""
    at = np.array([x])
    value = float(law.predict(arm, at, branch)[0])
    error = math.hypot(float(law.standard_error(arm, at, branch)[0]), law.mean_sd(n_runs))
    ends = []
    for level in (0.90, 0.95):
        half = float(stats.t.ppf(0.5 + level / 2, law.freedom)) * error
        ends += [value * math.exp(-half), value * math.exp(half)]
    return Forecast(arm, x, n_runs, value, *ends)
