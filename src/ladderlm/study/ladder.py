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
    "Target",
    "choose_shape",
    "name_rung",
    "natural_budget",
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
        n_steps, global_batch_tokens: what meets the budget.
        flops: what the steps come to, nominal causal.
        n_tokens: row positions trained on.
        n_matmul: N, parameters in matrix products.
        branch: length of this run over that of the rung.
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
        """D / N as it came out."""
        return self.n_tokens / self.n_matmul


def name_rung(index: int, branch: float) -> str:
    """Return the number of a rung, from 1, and the length of a run that is not as long as it."""
    return f"{index + 1}" + ("" if branch == 1 else f" ({branch:g}x as long)")


@functools.lru_cache(maxsize=8)  # thousands of shapes, asked for at every rung of every plan
def shapes(
    base: ModelConfig, aspect_ratio: float, heads_multiple_of: int = 1, min_layers: int = 1
) -> tuple[ModelConfig, ...]:
    """List shapes with the base's head size and dim / n_layers within a factor 2 of the aspect.

    dim is a multiple of the head size, so that every head stays as wide as the base's.

    Args:
        heads_multiple_of: so that arms with grouped key/value heads keep their groups.
        min_layers: fewest layers, where the aspect would give fewer.
    """
    head_dim = base.head_dim
    group = base.n_heads // base.kv_heads
    found = []
    for n_heads in [*range(1, 33), *range(34, 65, 2), *range(68, 257, 4)]:
        dim = n_heads * head_dim
        low = max(min_layers, math.ceil(dim / aspect_ratio / 2))
        high = max(low, math.floor(dim / aspect_ratio * 2))
        if n_heads % math.lcm(group, heads_multiple_of):
            continue
        for n_layers in range(low, high + 1):
            kv_heads = None if base.n_kv_heads is None else n_heads // group
            shape = replace(base, dim=dim, n_layers=n_layers, n_heads=n_heads, n_kv_heads=kv_heads)
            found.append(shape)
    return tuple(found)


@dataclass(frozen=True)
class Target:
    """How long to train a shape: in tokens per parameter, or in tokens for any size.

    Args:
        tokens_per_param: of parameters in matrix products.
        tokens: if given, it decides.
    """

    tokens_per_param: float
    tokens: float | None = None

    def of(self, shape: ModelConfig) -> float:
        """Return the tokens to train a shape on."""
        return self.tokens or self.tokens_per_param * count_params(shape).n_matmul


@functools.lru_cache(maxsize=256)
def nearest_shape(
    budget: float,
    target: Target,
    base: ModelConfig,
    seq_len: int,
    aspect_ratio: float,
    heads_multiple_of: int = 1,
    min_layers: int = 1,
) -> tuple[ModelConfig, float]:
    """Choose the shape whose tokens at this budget come nearest to the target.

    Among shapes within 10 % of the target the one nearest to the aspect ratio wins. See `shapes`.

    Returns:
        The shape, and |ln(tokens / target)|.
    """

    def miss(shape: ModelConfig) -> float:
        n_tokens = budget / train_flops_per_token(shape, seq_len)
        return abs(math.log(n_tokens / target.of(shape)))

    def cost(shape: ModelConfig) -> float:
        aspect = abs(math.log(shape.dim / shape.n_layers / aspect_ratio))
        return max(miss(shape), math.log(1.1)) + 0.1 * aspect

    best = min(shapes(base, aspect_ratio, heads_multiple_of, min_layers), key=cost)
    return best, miss(best)


def choose_shape(
    budget: float,
    target: Target,
    base: ModelConfig,
    seq_len: int,
    aspect_ratio: float,
    heads_multiple_of: int = 1,
    min_layers: int = 1,
) -> ModelConfig:
    """Return the nearest shape, if it is near enough. Arguments as in `nearest_shape`.

    Raises:
        ConfigError: the best one misses by more than 20 %; names the smallest budget that works.
    """
    best, miss = nearest_shape(
        budget, target, base, seq_len, aspect_ratio, heads_multiple_of, min_layers
    )
    if miss <= math.log(MAX_MISS):
        return best
    budgets = sorted(
        target.of(shape) * train_flops_per_token(shape, seq_len)
        for shape in shapes(base, aspect_ratio, heads_multiple_of, min_layers)
    )
    above = [b for b in budgets if b >= budget / MAX_MISS]
    n_tokens = budget / train_flops_per_token(best, seq_len)
    got = f"{n_tokens / count_params(best).n_matmul:.1f} tokens per parameter"
    wanted = f"{target.tokens_per_param:g}"
    if target.tokens is not None:
        got, wanted = f"{n_tokens:.3g} tokens", f"{target.tokens:.3g}"
    raise ConfigError(
        f"a rung of {budget:.3g} FLOPs: the nearest shape (dim {best.dim}, {best.n_layers} layers) "
        f"gets {got}, not {wanted}",
        "rungs that miss by more than 20 % are not on one ladder",
        f"the smallest budget that works from there is {(above or budgets[-1:])[0]:.3g} FLOPs",
    )


def natural_budget(shape: ModelConfig, tokens_per_param: float, seq_len: int) -> float:
    """Return the FLOPs at which a shape gets exactly its tokens per parameter."""
    n_tokens = tokens_per_param * count_params(shape).n_matmul
    return n_tokens * train_flops_per_token(shape, seq_len)


def snap_budgets(
    lowest: float,
    n_rungs: int,
    span: float,
    tokens_per_param: float,
    base: ModelConfig,
    seq_len: int,
    aspect_ratio: float,
) -> tuple[float, ...]:
    """Choose budgets near an even ladder that fit the grid of shapes.

    Small shapes lie far apart, so an even ladder would ask for sizes that do not exist. Of the
    shapes nearest to the aspect ratio, each rung takes the one whose natural budget is nearest
    to its place; the top rung is raised, if need be, until the whole spans what was asked for.

    Args:
        lowest: about the FLOPs of the first rung; the smallest shape's budget if that is more.
        n_rungs, span: rungs, and top over bottom.

    Returns:
        Rising budgets in FLOPs, three digits each.
    """
    grid = shapes(base, aspect_ratio)
    natural = [natural_budget(shape, tokens_per_param, seq_len) for shape in grid]
    slender = [abs(math.log(shape.dim / shape.n_layers / aspect_ratio)) for shape in grid]

    def nearest_to(target: float, above: float) -> float:
        allowed = [i for i in range(len(grid)) if natural[i] > above]
        if not allowed:
            raise ConfigError(
                f"a ladder from {lowest:.3g} FLOPs over {span:g}x",
                f"no shape of the grid needs more than {above:.3g} FLOPs",
                "lower the budget or the span",
            )
        cost = {i: abs(math.log(natural[i] / target)) + 0.3 * slender[i] for i in allowed}
        return natural[min(allowed, key=lambda i: cost[i])]

    found = [nearest_to(lowest, 0.0)]
    for k in range(1, n_rungs):
        target = found[0] * span ** (k / (n_rungs - 1))
        last = k == n_rungs - 1
        floor = max(found[-1] * 1.3, span * found[0] / MAX_MISS**0.5 if last else 0.0)
        found.append(nearest_to(target, floor))
    budgets = [float(f"{budget:.3g}") for budget in found]
    budgets[-1] = max(budgets[-1], float(f"{1.01 * span * budgets[0]:.3g}"))
    return tuple(budgets)


def batch_tokens(n_tokens: float, base_tokens: int, seq_len: int, min_updates: int) -> int:
    """Return the global batch: the base's, made smaller until a rung has enough updates.

    A multiple of seq_len, at least one row.
    """
    fitting = int(n_tokens / min_updates / seq_len) * seq_len
    return max(seq_len, min(base_tokens, fitting))


def plan_rung(
    index: int,
    budget: float,
    shape: ModelConfig,
    base_batch_tokens: int,
    seq_len: int,
    min_updates: int,
    branch: float = 1.0,
    shortest: float = 1.0,
) -> Rung:
    """Spend a budget on a shape.

    Args:
        budget: of the rung; `branch` times that is spent.
        shape: with the options of the arm.
        base_batch_tokens: batch of the base config; see `batch_tokens`.
        branch: length of this run over that of the rung.
        shortest: that of the shortest run of this size. All have the batch that leaves it enough
            updates.
    """
    per_token = train_flops_per_token(shape, seq_len)
    n_tokens = budget * shortest / per_token
    batch = batch_tokens(n_tokens, base_batch_tokens, seq_len, min_updates)
    budget *= branch
    n_steps = max(1, round(budget / (per_token * batch)))
    return Rung(
        index=index,
        budget=budget,
        model=shape,
        n_steps=n_steps,
        global_batch_tokens=batch,
        flops=per_token * batch * n_steps,
        n_tokens=batch * n_steps,
        n_matmul=count_params(shape).n_matmul,
        branch=branch,
    )
