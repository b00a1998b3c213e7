"""Fit scaling laws to points.

Owns least squares for `LogLinearLaw`, hold-out errors and the fit card. Takes arrays; knows no
runs and no files.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.errors import DataError
from ladderlm.scaling.laws import LogLinearLaw

__all__ = ["Points", "fit_card", "fit_log_linear", "holdout_errors"]


@dataclass(frozen=True)
class Points:
    """Runs as arrays, all of equal length.

    Args:
        arm: name of each run's arm.
        rung: index of its rung.
        seed: of the run; runs of two arms with one rung and seed are a pair.
        x: what the law is in: FLOPs, device seconds or tokens, positive.
        loss: positive.
    """

    arm: NDArray[np.str_]
    rung: NDArray[np.int64]
    seed: NDArray[np.int64]
    x: NDArray[np.float64]
    loss: NDArray[np.float64]

    def where(self, mask: NDArray[np.bool_]) -> "Points":
        """Give the chosen runs."""
        return Points(*(array[mask] for array in vars(self).values()))

    def __len__(self) -> int:
        return len(self.loss)


def fit_log_linear(points: Points) -> LogLinearLaw:
    """Fit ln L = a_arm + b ln C by least squares, all runs alike.

    The covariance is sigma^2 (X'X)^-1 with sigma^2 from the residuals. Source: any text on linear
    regression, for example Draper and Smith 1998, section 5.1.

    Raises:
        DataError: non-positive or non-finite values, fewer points than parameters + 1, or no arm
            with two different x.
    """
    good = np.isfinite(points.x) & np.isfinite(points.loss) & (points.x > 0) & (points.loss > 0)
    if not good.all():
        raise DataError(
            f"{int((~good).sum())} of {len(points)} points are not positive finite numbers",
            "a logarithm is taken of both axes",
            "exclude those runs and say why",
        )
    arms = tuple(dict.fromkeys(points.arm.tolist()))
    on_a_line = any(len(np.unique(points.x[points.arm == arm])) > 1 for arm in arms)
    if len(points) < len(arms) + 2 or not on_a_line:
        raise DataError(
            f"not enough points: {len(points)} runs of {len(arms)} arms",
            "a line with its error needs at least two rungs and one run to spare",
            "add rungs or seeds to the study",
        )
    c_ref = float(np.exp(np.log(points.x).mean()))
    design = np.zeros((len(points), len(arms) + 1))
    for column, arm in enumerate(arms):
        design[:, column] = points.arm == arm
    design[:, -1] = np.log(points.x / c_ref)
    target = np.log(points.loss)
    solution, *_ = np.linalg.lstsq(design, target, rcond=None)
    residuals = target - design @ solution
    freedom = len(points) - design.shape[1]
    variance = float(residuals @ residuals) / max(freedom, 1)
    covariance = variance * np.linalg.pinv(design.T @ design)
    return LogLinearLaw(
        intercepts=tuple(float(a) for a in solution[:-1]),
        slope=float(solution[-1]),
        c_ref=c_ref,
        covariance=tuple(tuple(float(v) for v in row) for row in covariance),
        sigma=float(np.sqrt(variance)),
        n_used=len(points),
        arms=arms,
    )


def holdout_errors(points: Points, n_rungs: int) -> list[dict[str, Any]]:
    """Fit without the top rungs, predict them, and give the errors, one row per held-out run.

    A row passes if |error| < max(2 sigma, 0.5 % of the loss), sigma being the error of the
    prediction (of the line and of one run) in ln L.

    Raises:
        DataError: too few rungs are left to fit, or an arm has no run on them.
    """
    rungs = np.unique(points.rung)
    kept = points.where(np.isin(points.rung, rungs[: len(rungs) - n_rungs]))
    held = points.where(np.isin(points.rung, rungs[len(rungs) - n_rungs :]))
    law = fit_log_linear(kept)
    unknown = sorted(set(held.arm.tolist()) - set(law.arms))
    if unknown:
        raise DataError(
            f"arm {unknown[0]!r} has no run on the lower rungs",
            "a forecast is made from the rungs below the held-out ones",
            "run those rungs, or find out why they failed",
        )
    rows = []
    for i in range(len(held)):
        arm, x = str(held.arm[i]), held.x[i : i + 1]
        predicted = float(law.predict(arm, x)[0])
        error = float(held.loss[i]) / predicted - 1
        sigma = float(np.hypot(law.standard_error(arm, x)[0], law.sigma))
        rows.append(
            {
                "arm": arm,
                "rung": int(held.rung[i]),
                "seed": int(held.seed[i]),
                "x": float(x[0]),
                "predicted": predicted,
                "actual": float(held.loss[i]),
                "relative_error": error,
                "sigma": sigma,
                "passed": bool(abs(error) < max(2 * sigma, 0.005)),
            }
        )
    return rows


def fit_card(law: LogLinearLaw, points: Points, excluded: dict[str, str]) -> dict[str, Any]:
    """Say everything that decides a fit's numbers."""
    return {
        "form": "ln L = a_arm + b ln(C / C_ref), one slope",
        "loss": "least squares on ln L",
        "optimizer": "exact (QR)",
        "starts": 1,
        "weights": "all runs alike",
        "n_used": law.n_used,
        "degrees_of_freedom": law.degrees_of_freedom,
        "rungs": sorted(int(r) for r in np.unique(points.rung)),
        "compute_range": [float(points.x.min()), float(points.x.max())],
        "excluded": excluded,
        "version": 1,
    }
