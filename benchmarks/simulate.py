"""Judge 1,000 made-up studies of each planted case and print the table of docs/scaling.md.

`make simulate` takes about 5 minutes on one core; `make simulate ARGS="--studies 200"` takes less.
"""
# ruff: noqa: T201

import argparse
import json
import time
from dataclasses import replace

from ladderlm.scaling.statistical_power import Noise
from ladderlm.study.simulate import CASES, simulate

ROWS = (
    ("95 % interval of m holds it", "coverage_95"),
    ("90 % interval of m holds it", "coverage_90"),
    ("95 % interval of the trend holds it", "trend_coverage_95"),
    ("interval lies above 1: power", "power"),
    ("power as planned", "predicted_power"),
    ("90 % forecast interval holds the top rung", "forecast_coverage_90"),
    ("its half-width, median, of the loss", "forecast_half_width"),
    ("hold-out failed, so INCONCLUSIVE", "holdout_failed"),
)


def main() -> int:
    """Simulate and print; exit code 1 if a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cases = dict(CASES)
    cases["m = 1.05, 4 rungs"] = replace(CASES["m = 1.05"], n_rungs=4)
    cases["m = 1.05, twice the noise"] = replace(CASES["m = 1.05"], noise=Noise(0.0038, 0.003))
    begin = time.monotonic()
    found = {name: simulate(case, options.studies, options.seed) for name, case in cases.items()}
    seconds = time.monotonic() - begin
    broken = find_broken(found)
    if options.json:
        print(json.dumps({"cases": found, "seconds": seconds, "broken": broken}, indent=2))
    else:
        print_table(found)
        print(f"\n{options.studies} studies each, seed {options.seed}, {seconds:.0f} s")
        for line in broken:
            print(f"BROKEN: {line}")
    return 1 if broken else 0


def print_table(found: dict[str, dict[str, object]]) -> None:
    """Print a Markdown table: a column a case."""
    print("| | " + " | ".join(found) + " |")
    print("|---" * (len(found) + 1) + "|")
    for label, key in ROWS:
        cells = [f"{100 * case[key]:.1f} %" if key in case else "" for case in found.values()]
        print(f"| {label} | " + " | ".join(cells) + " |")
    words = sorted({word for case in found.values() for word in case["words_by_numbers"]})
    for word in words:
        cells = [f"{100 * case['words_by_numbers'].get(word, 0):.1f} %" for case in found.values()]
        print(f"| {word}, by rules 1 to 6 | " + " | ".join(cells) + " |")


def find_broken(found: dict[str, dict[str, object]]) -> list[str]:
    """List what lies outside of the bounds that docs/scaling.md promises."""
    broken = []

    def check(name: str, key: str, low: float, high: float) -> None:
        value = found[name].get(key)
        if value is not None and not low <= value <= high:
            broken.append(f"{name}: {key} = {value:.4f}, not {low} to {high}")

    for name in ("m = 1.00", "m = 1.05", "m = 1.20", "m = 1.20, loss bends down"):
        check(name, "coverage_95", 0.93, 0.97)
        check(name, "forecast_coverage_90", 0.86, 0.94)
        check(name, "forecast_half_width", 0, 0.01)
        planned = found[name]["predicted_power"]
        check(name, "power", planned - 0.05, planned + 0.05)
    words = found["m = 1.00"]["words_by_numbers"]
    gains = sum(share for word, share in words.items() if word.startswith("RECOMMEND"))
    if gains > 0.05:
        broken.append(f"m = 1.00: {gains:.1%} RECOMMEND")
    falling = found["m = 1.40 falling to 1.05"]["words_by_numbers"].get("SCALE-DEPENDENT", 0)
    if falling < 0.9:
        broken.append(f"m = 1.40 falling to 1.05: {falling:.1%} SCALE-DEPENDENT")
    return broken


if __name__ == "__main__":
    raise SystemExit(main())
