"""Options of a study file's tables.

Owns what `[ladder]` and `[search]` may hold, and what of it makes sense.
"""

import itertools
import random
from dataclasses import dataclass
from typing import Any, Literal

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
        rising = all(a < b for a, b in zip(self.flops, self.flops[1:], strict=False))
        if not self.flops or self.flops[0] <= 0 or not rising:
            raise ConfigError(
                f"ladder.flops = {list(self.flops)}",
                "budgets are positive and rise",
                "write for example flops = [1e13, 3e13, 1e14]",
            )
        if not self.seeds or len(set(self.seeds + self.extra_seeds)) != len(
            self.seeds + self.extra_seeds
        ):
            raise ConfigError(
                f"ladder.seeds = {list(self.seeds)}, extra_seeds = {list(self.extra_seeds)}",
                "seeds are distinct: a repeated run is no replicate",
                "write for example seeds = [1, 2]",
            )
        for name in ("tokens_per_param", "aspect_ratio", "min_layers", "min_updates"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"ladder.{name} = {getattr(self, name)}", "it is positive")
        if self.tokens is not None and self.tokens <= 0:
            raise ConfigError(f"ladder.tokens = {self.tokens}", "it is positive")
        self._check_branches()
        if self.isoflop_sizes and not 4 <= self.isoflop_sizes <= 9:
            raise ConfigError(
                f"ladder.isoflop_sizes = {self.isoflop_sizes}",
                "a parabola needs four points, and sizes far off say nothing of its vertex",
                "choose 4 to 9, or 0 for none",
            )
        for name in ("noise_seeds", "extra_seed_rungs"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"ladder.{name} = {getattr(self, name)}", "it is not negative", "0 is for none"
                )
        if not 0 <= self.holdout < len(self.flops):
            raise ConfigError(
                f"ladder.holdout = {self.holdout} of {len(self.flops)} rungs",
                "rungs must be left to fit",
                f"choose 0 to {len(self.flops) - 1}",
            )

    def _check_branches(self) -> None:
        """Refuse branches that are no lengths, or that other options leave no meaning."""
        lengths = self.branches
        rising = all(a < b for a, b in itertools.pairwise(lengths))
        if 1.0 not in lengths or lengths[0] <= 0 or not rising:
            raise ConfigError(
                f"ladder.branches = {list(lengths)}",
                "they are positive multiples of tokens_per_param that rise, with 1 among them, "
                "which is what the rungs' FLOPs are for",
                "write for example branches = [0.5, 1, 2]",
            )
        if len(lengths) > 1 and (self.tokens is not None or self.isoflop_sizes):
            other = "tokens" if self.tokens is not None else "isoflop_sizes"
            raise ConfigError(
                f"ladder.branches together with ladder.{other}",
                "both say how long a size is trained, or which sizes a length is for",
                f"leave out branches or {other}",
            )

    @property
    def noise_seed_list(self) -> tuple[int, ...]:
        """The seeds of the noise runs: those that follow the largest of all others."""
        last = max(self.seeds + self.extra_seeds)
        return tuple(range(last + 1, last + 1 + self.noise_seeds))

    def seeds_of(self, rung: int) -> tuple[int, ...]:
        """Return the seeds of a rung."""
        return self.seeds + (self.extra_seeds if rung < self.extra_seed_rungs else ())


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
            raise ConfigError(
                f"search.method = {self.method!r} with n_samples = {self.n_samples}",
                "a grid tries every combination, a random search so many",
                "give n_samples to a random search, and to no grid",
            )
        if self.rung < 1 or self.flops <= 0 or (self.n_samples or 1) < 1:
            raise ConfigError(
                f"search.rung = {self.rung}, flops = {self.flops}, n_samples = {self.n_samples}",
                "rungs count from 1, the others are positive",
            )

    def combinations(self) -> list[dict[str, Any]]:
        """Return the combinations that are tried, in a fixed order."""
        names = [name for name, _ in self.options]
        every = list(itertools.product(*(values for _, values in self.options)))
        n = min(self.n_samples or len(every), len(every))
        chosen = sorted(random.Random(self.seed).sample(range(len(every)), n))
        return [dict(zip(names, every[i], strict=True)) for i in chosen]
