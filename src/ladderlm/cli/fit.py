"""`ladderlm fit`: fit a scaling law to any table of results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ladderlm.cli.options import parse, print_json
from ladderlm.errors import ConfigError
from ladderlm.files import publish, publish_text
from ladderlm.scaling.config import FitOptions
from ladderlm.scaling.fit import fit_points
from ladderlm.scaling.isoflop import Bowl
from ladderlm.scaling.result import Fit

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class FitCommandOptions(FitOptions):
    """Fit a scaling law to any table of results."""

    points: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="POINTS.csv")]
    """CSV file with the columns params, tokens, flops and loss, or others named by --map."""
    figure: str | None = None
    """Figure to draw of an isoflop fit, .svg or .png. Default: none."""
    json: bool = False
    """Print the fit as JSON."""


def run(argv: list[str]) -> int:
    """Fit a law and print it with its errors."""
    options = parse(FitCommandOptions, argv, "fit")
    found = fit_points(options.points, options)
    if options.figure is not None:
        _write_figure(found, Path(options.figure))
    if options.json:
        print_json(found.to_json())
    else:
        print("\n".join(_lines_of(found)))
    return 0


def _write_figure(found: Fit, path: Path) -> None:
    """Publish the figure of an isoflop fit."""
    if "bowls" not in found.details:
        raise ConfigError(
            f"--figure needs --form isoflop, got --form {found.form}",
            fix="use --form isoflop, or leave --figure out",
        )
    from ladderlm.report.figures.isoflop import isoflop_figure
    from ladderlm.report.figures.style import png_bytes, svg_text

    by_surface = ", ".join(
        f"{name} {surface['exponent_tokens']:.2f}"
        for name, surface in found.details["surface"].items()
    )
    own = found.parameters["exponent_tokens"]
    note = f"exponent of D* in C: {own:.2f} by parabolas; by the surface {by_surface}"
    figure = isoflop_figure([Bowl.from_json(bowl) for bowl in found.details["bowls"]], note)
    if path.suffix == ".png":
        image = png_bytes(figure)
        publish(path, lambda stream: stream.write(image))
    else:
        publish_text(path, svg_text(figure))


def _lines_of(found: Fit) -> list[str]:
    """Return lines with the parameters, their intervals and the checks of the fit."""
    second = found.objective["beside"].get("parameters", {})
    left_out = sum(found.excluded.values())
    lines = [
        str(found.card["form"]),
        f"{found.n_used} rows used, {left_out} left out; {found.objective['name']}, 95 % bootstrap",
        f"  {'':<18}{found.objective['name']:>14}  {'interval':^25}"
        + (f"{found.objective['beside']['name']:>14}" if second else ""),
    ]
    for name, value in found.parameters.items():
        low, high = found.intervals.get(name, (None, None))
        shown = "" if low is None or high is None else f"{low:.5g} to {high:.5g}"
        other = f"{second[name]:>14.5g}" if name in second else ""
        lines.append(f"  {name:<18}{value:>14.5g}  {shown:^25}{other}")
    for objective, surface in found.details.get("surface", {}).items():
        low, high = surface["interval"]
        lines.append(
            f"  D* by the surface, {objective}: exponent {surface['exponent_tokens']:.3f} "
            f"({low:.3f} to {high:.3f})"
        )
    for variant, comparison in found.details.get("comparisons", {}).items():
        lines += _describe_comparison(variant, comparison)
    if found.identified:
        known = "is identified" if found.identified["E"] else "is NOT identified"
        lines.append(f"E {known}: {found.identified['reason']}")
    lines += [line for test in found.holdout for line in _describe_holdout(test)]
    left = found.details.get("leave_one_out", [])
    if left:
        worst = max(left, key=lambda row: abs(row["worst_error"]))
        lines.append(
            f"leaving one rung out: worst error {worst['worst_error']:+.2%} (rung {worst['rung']})"
        )
    return lines + [f"warning: {text}" for text in found.warnings]


def _describe_comparison(variant: str, comparison: dict[str, Any]) -> list[str]:
    """Return lines with the compute multiplier of a variant, pooled and at every rung."""
    if "problem" in comparison:
        return [f"{variant}: {comparison['problem'].splitlines()[0]}"]
    pooled, trend = comparison["pooled"], comparison["trend"]
    lines = [
        f"{variant} against {comparison['baseline']}: m = {pooled['value']:.3f} (95 % by t on rung "
        f"means {pooled['low_95']:.3f} to {pooled['high_95']:.3f}), d ln m / d ln C = "
        f"{trend['value']:+.4f} ({trend['low_95']:+.4f} to {trend['high_95']:+.4f})"
    ]
    for rung in comparison["rungs"]:
        m = rung["estimate"]
        shown = rung["censored"] or f"{m['value']:.3f}"
        lines.append(
            f"  rung {rung['rung']}: C = {rung['x']:.3g}  m = {shown} "
            f"({m['low_95']:.3f} to {m['high_95']:.3f})"
        )
    return lines


def _describe_holdout(test: dict[str, Any]) -> list[str]:
    lines = [
        f"hold-out, {test['held']}: {test['n_fitted']} rows fitted, {len(test['rows'])} predicted, "
        f"{'passed' if test['passed'] else 'FAILED'}, worst {test['worst_error']:+.2%}"
    ]
    shown = sorted(test["rows"], key=lambda row: -abs(row["relative_error"]))[:8]
    lines += [
        f"  line {row['line']:<5} predicted {row['predicted']:.4f} actual {row['actual']:.4f} "
        f"{row['relative_error']:+.3%} (sigma {row['sigma']:.2%})  {row['label']}".rstrip()
        for row in shown
    ]
    if len(test["rows"]) > len(shown):
        lines.append(f"  and {len(test['rows']) - len(shown)} with smaller errors")
    return lines
