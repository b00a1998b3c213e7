"""Options of a study file's tables `[ladder]` and `[search]`.

Owns the checks of their values.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ladderlm.config import require
from ladderlm.errors import ConfigError

__all__ = ["LadderOptions", "SearchOptions"]


@dataclass(frozen=True, kw_only=True)
class LadderOptions:
    """Budgets of the ladder and what happens at each."""

    flops: tuple[float, ...]
    """Budget of each rung in FLOPs, in rising order."""
    tokens_per_param: float = 20.0
    """Training tokens per parameter, counting the parameters in matrix multiplications."""
    tokens: float | None = None
    """Train every rung on this many tokens, so that only the model grows with compute. Default: by
    `tokens_per_param`."""
    branches: tuple[float, ...] = (1.0,)
    """Training lengths for each size, in multiples of `tokens_per_param`. The longest run is the
    trunk and the others start from its checkpoints. More than one length needs the schedule wsd."""
    seeds: tuple[int, ...] = (1, 2)
    """Seeds of every arm at every rung. A seed sets both the initial weights and the order of
    data."""
    extra_seeds: tuple[int, ...] = ()
    """Further seeds at the lowest `extra_seed_rungs` rungs."""
    extra_seed_rungs: int = 0
    """Number of lowest rungs that get `extra_seeds`."""
    noise_seeds: int = 3
    """Number of further seeds of the baseline at the smallest rung. They run first and measure the
    spread between seeds."""
    isoflop_sizes: int = 0
    """Number of sizes of the baseline at equal compute, in steps of sqrt(2). 0: none."""
    isoflop_rungs: int = 3
    """Number of lowest rungs that get `isoflop_sizes`."""
    holdout: int = 1
    """Number of top rungs that the fit of the forecast leaves out."""
    aspect_ratio: float = 32.0
    """Ratio dim / n_layers that the shapes keep close to."""
    min_layers: int = 1
    """Fewest layers of a rung. One layer cannot do what two can (Olsson et al. 2022, 2209.11895),
    so rates found with one may not transfer to two."""
    min_updates: int = 500
    """Fewest updates of a rung; the batch shrinks until it has that many."""

    def __post_init__(self) -> None:
        n_rungs, seeds = len(self.flops), self.seeds + self.extra_seeds
        distinct = bool(self.seeds) and len(set(seeds)) == len(seeds)
        lengths = 1.0 in self.branches and _are_rising(self.branches)
        positive = ("tokens_per_param", "aspect_ratio", "min_layers", "min_updates")
        rules = [
            ("flops", _are_rising(self.flops), "be positive and rise, such as [1e13, 3e13]"),
            ("seeds", distinct, "differ from each other and from extra_seeds, such as [1, 2]"),
            *((name, getattr(self, name) > 0, "be positive") for name in positive),
            ("tokens", self.tokens is None or self.tokens > 0, "be positive"),
            ("branches", lengths, "be positive multiples that rise, with 1 among them"),
            # A parabola needs four points, and sizes far from its vertex do not locate it.
            ("isoflop_sizes", self.isoflop_sizes in (0, *range(4, 10)), "be 0 or 4 to 9"),
            ("noise_seeds", self.noise_seeds >= 0, "be at least 0"),
            ("extra_seed_rungs", self.extra_seed_rungs >= 0, "be at least 0"),
            ("holdout", 0 <= self.holdout < n_rungs, f"be at least 0 and below {n_rungs} rungs"),
        ]
        for name, holds, rule in rules:
            value = getattr(self, name)
            shown = list(value) if isinstance(value, tuple) else value
            require(f"ladder.{name}", shown, holds, rule)
        if len(self.branches) > 1 and (self.tokens is not None or self.isoflop_sizes):
            other = "tokens" if self.tokens is not None else "isoflop_sizes"
            raise ConfigError(
                f"ladder.branches cannot be combined with ladder.{other}",
                fix=f"leave out branches or {other}",
            )

    @property
    def noise_seed_list(self) -> tuple[int, ...]:
        """The seeds of the noise runs: those that follow the largest of all others."""
        last = max(self.seeds + self.extra_seeds)
        return tuple(range(last + 1, last + 1 + self.noise_seeds))

    def seeds_of(self, rung: int) -> tuple[int, ...]:
        """Return the seeds of a rung."""
        return self.seeds + (self.extra_seeds if rung < self.extra_seed_rungs else ())


def _are_rising(values: Sequence[float]) -> bool:
    """Return whether there are values, all positive, each above the one before."""
    return bool(values) and values[0] > 0 and all(a < b for a, b in itertools.pairwise(values))


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """A search over options of the baseline at one rung."""

    flops: float
    """Budget of all runs of the search together, in FLOPs."""
    rung: int = 1
    """Rung of the ladder at which options are tried, from 1."""
    method: Literal["grid", "random", "halving"] = "grid"
    """Which combinations are run. grid: all of them. random: `n_samples` of them. halving: the
    better half is promoted to the next rung."""
    n_samples: int | None = None
    """Number of combinations to draw. Default: all."""
    seed: int = 1
    """Seed of the draw of combinations."""
    options: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Values to try for each option, from the table `[search.options]`."""

    def __post_init__(self) -> None:
        if (self.method == "random") != (self.n_samples is not None) and self.method != "halving":
            rule = "be set for the method random and left out for grid"
            require("search.n_samples", self.n_samples, False, rule)
        require("search.rung", self.rung, self.rung >= 1, "be at least 1")
        require("search.flops", self.flops, self.flops > 0, "be positive")
        n_samples = 1 if self.n_samples is None else self.n_samples
        require("search.n_samples", n_samples, n_samples >= 1, "be at least 1")

    def combinations(self) -> list[Mapping[str, object]]:
        """Return the combinations to try, in a fixed order."""
        names = [name for name, _ in self.options]
        every = list(itertools.product(*(values for _, values in self.options)))
        n = min(self.n_samples or len(every), len(every))
        chosen = sorted(random.Random(self.seed).sample(range(len(every)), n))
        return [dict(zip(names, every[i], strict=True)) for i in chosen]
