"""Options of sampling.

Owns `SamplingConfig`, whose defaults hold on the command line and in Python.
"""

from dataclasses import dataclass

from ladderlm.config import require

__all__ = ["SamplingConfig"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Options of drawing tokens. None switches a filter off."""

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
        t, p, k, penalty = self.temperature, self.top_p, self.top_k, self.repetition_penalty
        require("temperature", t, 0 <= t < 1e6, "be finite and not negative")
        require("top_p", p, p is None or 0 < p <= 1, "be above 0 and at most 1")
        require("top_k", k, k is None or k >= 1, "be at least 1")
        require("min_p", self.min_p, 0 <= (self.min_p or 0) <= 1, "be between 0 and 1")
        valid = penalty is None or 0 < penalty < 1e6
        require("repetition_penalty", penalty, valid, "be finite and positive")
        require("seed", self.seed, 0 <= self.seed < 2**62, "be at least 0 and below 2^62")
