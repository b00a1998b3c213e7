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
    """Budgets of the ladder and what happens at each.

    Args:
        flops: budget of each rung, rising.
        tokens_per_param: tokens per parameter in matrix products.
        tokens: train every rung on this many tokens instead, so that size alone grows with compute.
        branches: lengths of the runs of each size, in multiples of tokens_per_param. The longest is
            the trunk, at whose checkpoints the others begin; it needs the schedule wsd.
        seeds: set both the initial weights and the order of the data, in every arm.
        extra_seeds: further seeds for the lowest `extra_seed_rungs` rungs.
        extra_seed_rungs: how many rungs get them.
        noise_seeds: further seeds of the smallest baseline, run first: the spread of seeds alone.
        isoflop_sizes: sizes of the baseline at equal compute, in steps of sqrt(2); 0: none.
        isoflop_rungs: the lowest rungs that get them.
        holdout: top rungs kept out of the fit that makes the forecast.
        aspect_ratio: dim / n_layers that shapes keep close to.
        min_layers: fewest layers of a rung. One layer cannot do what two can (Olsson et al. 2022,
            arXiv:2209.11895), and rates found at it may not carry to two.
        min_updates: the batch shrinks until a rung has this many updates.
    """

    flops: tuple[float, ...]
    tokens_per_param: float = 20.0
    tokens: float | None = None
    branches: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (1, 2)
    extra_seeds: tuple[int, ...] = ()
    extra_seed_rungs: int = 0
    noise_seeds: int = 3
    isoflop_sizes: int = 0
    isoflop_rungs: int = 3
    holdout: int = 1
    aspect_ratio: float = 32.0
    min_layers: int = 1
    min_updates: int = 500

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
        """Give the seeds of a rung."""
        return self.seeds + (self.extra_seeds if rung < self.extra_seed_rungs else ())


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """A search over options of the baseline at one rung.

    Args:
        flops: what all its runs together may take.
        rung: at which rung of the ladder, from 1.
        method: every combination, `n_samples` of them, or the better half of them rung by rung.
        n_samples: how many combinations are drawn; None: all.
        seed: of the draw.
        options: the values to try of each option, from the table `[search.options]`.
    """

    flops: float
    rung: int = 1
    method: Literal["grid", "random", "halving"] = "grid"
    n_samples: int | None = None
    seed: int = 1
    options: tuple[tuple[str, tuple[Any, ...]], ...] = ()

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
        """Give the combinations that are tried, in a fixed order."""
        names = [name for name, _ in self.options]
        every = list(itertools.product(*(values for _, values in self.options)))
        n = min(self.n_samples or len(every), len(every))
        chosen = sorted(random.Random(self.seed).sample(range(len(every)), n))
        return [dict(zip(names, every[i], strict=True)) for i in chosen]
