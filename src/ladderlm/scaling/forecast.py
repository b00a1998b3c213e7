"""What the next rung will show.

Owns the forecast of a rung's mean loss from the law of the rungs below, with its intervals.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ladderlm.scaling.joint import LadderLaw

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True)
class Forecast:
    """The mean loss of some runs of one arm at one x, before they are looked at.

    Args:
        n_runs: whose mean is predicted.
        value: of the law.
        low_90, high_90, low_95, high_95: intervals of the mean: error of the law, and noise.
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
    """Predict with t intervals in ln L; variances of law and noise add.

    Args:
        branch: length of the runs over that of their rung.
    """
    at = np.array([x])
    value = float(law.predict(arm, at, branch)[0])
    error = math.hypot(float(law.standard_error(arm, at, branch)[0]), law.mean_sd(n_runs))
    ends = []
    for level in (0.90, 0.95):
        half = float(stats.t.ppf(0.5 + level / 2, law.freedom)) * error
        ends += [value * math.exp(-half), value * math.exp(half)]
    return Forecast(arm, x, n_runs, value, *ends)
