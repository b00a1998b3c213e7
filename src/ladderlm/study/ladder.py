"""From a compute budget to a shape, a batch and a number of steps.

Owns the arithmetic of a rung. Sizes snap to a grid, FLOPs are met to one step, tokens follow.
"""

import functools
import math
from dataclasses import dataclass, replace

from ladderlm.errors import ConfigError
from ladderlm.model.accounting import count_params, train_flops_per_token
from ladderlm.model.config import ModelConfig

__all__ = [
    "MAX_MISS",
    "Rung",
    "ShapeGrid",
    "Target",
    "batch_tokens",
    "choose_shape",
    "name_rung",
    "nearest_shape",
    "plan_rung",
    "shapes",
    "snap_budgets",
]

MAX_MISS = 1.2  # tokens per parameter may miss their target by this factor


@dataclass(frozen=True)
class Rung:
    """One budget of the ladder for one arm.

    Args:
        index: from 0, by rising budget.
        budget: FLOPs asked for.
        model: shape with the arm's options.
        flops: of all steps, nominal causal.
        n_tokens: row positions trained on.
        n_matmul: N, parameters in matrix multiplications.
        branch: length of this run relative to the rung's.
    """

    index: int
    budget: float
    model: ModelConfig
    n_steps: int
    global_batch_tokens: int
    flops: float
    n_tokens: int
    n_matmul: int
    branch: float = 1.0

    @property
    def tokens_per_param(self) -> float:
        """D / N, after rounding to whole steps."""
        return self.n_tokens / self.n_matmul


def name_rung(index: int, branch: float) -> str:
    """Return the number of a rung, from 1, and the relative length of a run if it is not 1."""
    return f"{index + 1}" + ("" if branch == 1 else f" ({branch:g}x as long)")


@dataclass(frozen=True)
class Target:
    """How long to train a shape.

    Args:
        tokens_per_param: counting the parameters in matrix multiplications.
        tokens: for any size; overrides `tokens_per_param`.
    """

    tokens_per_param: float
    tokens: float | None = None

    def of(self, shape: ModelConfig) -> float:
        """Return the tokens to train a shape on."""
        return self.tokens or self.tokens_per_param * count_params(shape).n_matmul

    def budget(self, shape: ModelConfig, seq_len: int) -> float:
        """Return the FLOPs of training a shape on exactly its tokens."""
        return self.of(shape) * train_flops_per_token(shape, seq_len)


@dataclass(frozen=True)
class ShapeGrid:
    """The shapes of a ladder: the base's head size, dim / n_layers near the aspect ratio.

    Args:
        heads_multiple_of: so that arms with grouped key/value heads keep their groups.
        min_layers: fewest layers, where the aspect ratio would give fewer.
    """

    base: ModelConfig
    seq_len: int
    aspect_ratio: float
    heads_multiple_of: int = 1
    min_layers: int = 1

    def stretch(self, shape: ModelConfig) -> float:
        """Return how far a shape is from the aspect ratio, in logarithms."""
        return abs(math.log(shape.dim / shape.n_layers / self.aspect_ratio))


@functools.lru_cache(maxsize=8)  # thousands of shapes, needed at every rung of every plan
def shapes(grid: ShapeGrid) -> tuple[ModelConfig, ...]:
    """List the shapes of a grid whose dim / n_layers is within a factor 2 of the aspect ratio.

    dim is a multiple of the head size, so that every head is as wide as the base's.
    """
    base = grid.base
    group = base.n_heads // base.kv_heads
    found = []
    for n_heads in [*range(1, 33), *range(34, 65, 2), *range(68, 257, 4)]:
        if n_heads % math.lcm(group, grid.heads_multiple_of):
            continue
        dim = n_heads * base.head_dim
        kv_heads = None if base.n_kv_heads is None else n_heads // group
        wide = replace(base, dim=dim, n_heads=n_heads, n_kv_heads=kv_heads)
        low = max(grid.min_layers, math.ceil(dim / grid.aspect_ratio / 2))
        high = max(low, math.floor(dim / grid.aspect_ratio * 2))
        found += [replace(wide, n_layers=n_layers) for n_layers in range(low, high + 1)]
    return tuple(found)


@functools.lru_cache(maxsize=256)
def nearest_shape(budget: float, target: Target, grid: ShapeGrid) -> tuple[ModelConfig, float]:
    """Choose the shape whose tokens at this budget are nearest to the target.

    Among shapes within 10 % of the target, the one nearest to the aspect ratio is taken.

    Returns:
        The shape, and |ln(tokens / target)|.
    """

    def miss(shape: ModelConfig) -> float:
        n_tokens = budget / train_flops_per_token(shape, grid.seq_len)
        return abs(math.log(n_tokens / target.of(shape)))

    def cost(shape: ModelConfig) -> float:
        return max(miss(shape), math.log(1.1)) + 0.1 * grid.stretch(shape)

    best = min(shapes(grid), key=cost)
    return best, miss(best)


def choose_shape(budget: float, target: Target, grid: ShapeGrid) -> ModelConfig:
    """Return the nearest shape, if it is near enough.

    Raises:
        ConfigError: the best one misses by more than 20 %; names the smallest budget that works.
    """
    best, miss = nearest_shape(budget, target, grid)
    if miss <= math.log(MAX_MISS):
        return best
    budgets = sorted(target.budget(shape, grid.seq_len) for shape in shapes(grid))
    works = next((b for b in budgets if b >= budget / MAX_MISS), budgets[-1])
    n_tokens = budget / train_flops_per_token(best, grid.seq_len)
    got = f"{n_tokens / count_params(best).n_matmul:.1f} tokens per parameter"
    wanted = f"{target.tokens_per_param:g}"
    if target.tokens is not None:
        got, wanted = f"{n_tokens:.3g} tokens", f"{target.tokens:.3g}"
    raise ConfigError(
        f"a rung of {budget:.3g} FLOPs: the nearest shape (dim {best.dim}, {best.n_layers} layers) "
        f"gets {got}, not {wanted}",
        "rungs that miss by more than 20 % are not on one ladder",
        f"raise it: the smallest budget that works is {works:.3g} FLOPs",
    )


def snap_budgets(
    lowest: float, n_rungs: int, span: float, tokens_per_param: float, grid: ShapeGrid
) -> tuple[float, ...]:
    """Choose budgets near an even ladder that fit the grid of shapes.

    Small shapes are far apart, so an even ladder would ask for sizes that do not exist. Of the
    shapes near the aspect ratio, each rung takes the one whose exact budget is nearest to its
    place. The top rung is raised, if necessary, until the ladder has the span.

    Args:
        lowest: about the FLOPs of the first rung; the smallest shape's budget if that is more.
        span: top over bottom.

    Returns:
        Rising budgets in FLOPs, three digits each.
    """
    target = Target(tokens_per_param)
    priced = [(target.budget(s, grid.seq_len), 0.3 * grid.stretch(s)) for s in shapes(grid)]

    def nearest_to(place: float, above: float) -> float:
        allowed = [pair for pair in priced if pair[0] > above]
        if not allowed:
            raise ConfigError(
                f"a ladder from {lowest:.3g} FLOPs over {span:g}x",
                f"no shape of the grid needs more than {above:.3g} FLOPs",
                "lower the budget or the span",
            )
        return min(allowed, key=lambda pair: abs(math.log(pair[0] / place)) + pair[1])[0]

    found = [nearest_to(lowest, 0.0)]
    for k in range(1, n_rungs):
        floor = span * found[0] / MAX_MISS**0.5 if k == n_rungs - 1 else 0.0
        place = found[0] * span ** (k / (n_rungs - 1))
        found.append(nearest_to(place, max(found[-1] * 1.3, floor)))
    budgets = [float(f"{budget:.3g}") for budget in found]
    budgets[-1] = max(budgets[-1], float(f"{1.01 * span * budgets[0]:.3g}"))
    return tuple(budgets)


def batch_tokens(n_tokens: float, base_tokens: int, seq_len: int, min_updates: int) -> int:
    """Return the base's global batch, made smaller until a run has enough updates.

    It is a multiple of seq_len, at least one row.
    """
    fitting = int(n_tokens / min_updates / seq_len) * seq_len
    return max(seq_len, min(base_tokens, fitting))


def plan_rung(
    index: int, budget: float, shape: ModelConfig, batch: int, seq_len: int, branch: float = 1.0
) -> Rung:
    """Spend `branch` times a rung's budget on a shape, in batches of so many tokens."""
    per_step = train_flops_per_token(shape, seq_len) * batch
    n_steps = max(1, round(budget * branch / per_step))
    return Rung(
        index=index,
        budget=budget * branch,
        model=shape,
        n_steps=n_steps,
        global_batch_tokens=batch,
        flops=per_step * n_steps,
        n_tokens=batch * n_steps,
        n_matmul=count_params(shape).n_matmul,
        branch=branch,
    )
