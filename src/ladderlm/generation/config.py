"""How texts are drawn.

Owns `SamplingConfig`, whose defaults hold on the command line and in Python.
"""

from dataclasses import dataclass

from ladderlm.errors import ConfigError

__all__ = ["SamplingConfig"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are drawn. None switches a filter off."""

    temperature: float = 0.8
    """Temperature of sampling. 0 takes the most likely token."""
    top_p: float | None = 0.9
    """Keep the smallest set of most likely tokens whose probabilities add up to this. 1 keeps
    all."""
    top_k: int | None = None
    """Keep this many most likely tokens. Default: all."""
    min_p: float | None = None
    """Keep tokens that are at least this fraction as likely as the most likely one. Default:
    all."""
    repetition_penalty: float | None = None
    """Factor above 1 that makes tokens of the text so far less likely. Default: none."""
    seed: int = 1
    """Seed of sampling. Text i uses seed + i."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < 1e6:
            raise ConfigError(f"temperature = {self.temperature}", "it is finite and not negative")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p = {self.top_p}", "it lies in (0, 1]")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k = {self.top_k}", "it is at least 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p = {self.min_p}", "it lies in [0, 1]")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < 1e6:
            raise ConfigError(
                f"repetition_penalty = {self.repetition_penalty}", "it is finite and positive"
            )
        if not 0 <= self.seed < 2**62:
            raise ConfigError(f"seed = {self.seed}", "it lies in [0, 2^62)")
