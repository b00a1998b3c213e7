"""`ladderlm.fit`: fit scaling laws to any table of results.

Owns the choice of a form's module.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ladderlm.scaling.config import FitOptions
from ladderlm.scaling.fit_form import fit_form
from ladderlm.scaling.isoflop import fit_isoflop
from ladderlm.scaling.powerlaw import fit_power_law
from ladderlm.scaling.result import Fit
from ladderlm.scaling.rows import choose_rows
from ladderlm.scaling.table import read_table, table_of

__all__ = ["fit", "fit_points"]


def fit(
    points: str | Path | Mapping[str, Sequence[object]], form: str = "power", **options: Any
) -> Fit:
    """Fit a scaling law.

    Args:
        points: a CSV file, or columns of equal length: `params`, `tokens`, `flops`, `loss` and
            optionally `arm`, `rung`, `seed`, `cluster`, `weight`.
        form, options: fields of `FitOptions`.

    Raises:
        DataError: the points cannot be read or are too few for the form.
    """
    return fit_points(points, FitOptions(**{"form": form, **options}))


def fit_points(points: str | Path | Mapping[str, Sequence[object]], options: FitOptions) -> Fit:
    """Fit a scaling law by the options; see `fit`."""
    table = table_of(points) if isinstance(points, Mapping) else read_table(points)
    own = {"isoflop": fit_isoflop, "powerlaw-nd": fit_power_law}
    return own.get(options.form, fit_form)(choose_rows(table, options), options)
