"""Options of speed measurements.

Owns the defaults of `ladderlm bench` and `ladderlm profile`.
"""

from dataclasses import dataclass
from typing import Literal

from ladderlm.config import require

__all__ = ["BenchConfig", "ProfileConfig", "Shape", "StepConfig"]

Shape = Literal["quickstart", "192", "384", "124m"]


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Which training step to measure, and where."""

    shape: Shape = "quickstart"
    """Model and batch. quickstart: those of the quickstart. 192, 384: width of a small model, in
    channels. 124m: the preset llama-124m."""
    threads: int | None = None
    """Number of CPU threads. Default: chosen by PyTorch."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run: cpu or cuda."""

    def __post_init__(self) -> None:
        for name in ("threads", "rounds", "steps"):
            value = getattr(self, name, None)
            fix = f"set --{name} to 1 or more, or leave it out"
            require(f"--{name}", value, value is None or value >= 1, "be at least 1", fix)


@dataclass(frozen=True, kw_only=True)
class BenchConfig(StepConfig):
    """Compare the speed of a training step with other code and with the machine's peak.

    The ways take turns, and ratios are relative to the first one.
    """

    ways: str | None = None
    """Ways to run the step, separated by commas. Default: all that this machine supports."""
    rounds: int = 5
    """Number of timed updates of each way. One update before them is not timed."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Update rule of ladderlm: adamw or muon. The other code uses AdamW."""
    mask_documents: bool = False
    """Put two documents into each row and mask them from each other. Only ladderlm can do this."""


@dataclass(frozen=True, kw_only=True)
class ProfileConfig(StepConfig):
    """Show where a training step spends its time: a table, and a trace file."""

    way: str = "ours"
    """Way to run the step: one of those of `ladderlm bench`."""
    steps: int = 3
    """Number of recorded updates. One update before them is not recorded."""
