"""Signals, non-finite numbers and exhausted memory, which stop a run without damage.

Owns the flag that a signal sets and the checks before an update and a save.
"""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn

from ladderlm.data.batch import Batch
from ladderlm.dist import local_part
from ladderlm.errors import Stopped, TrainingError

__all__ = ["SignalFlag", "check_finite", "check_weights", "explain_memory"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class SignalFlag:
    """The first signal that came, which every long phase checks.

    A signal only sets the flag, so it never interrupts a save. As a context manager it restores
    the previous handlers at its end.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "SignalFlag":
        for number in _SIGNALS:
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the caller owns the signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number

    def check(self) -> None:
        """Raise `Stopped` if a signal has come."""
        if self.number is not None:
            raise Stopped(self.number)


def check_finite(loss: float, grad_norm: float, step: int, batch: Batch) -> None:
    """Check loss and gradient norm of update number `step`, from 1, before it is made.

    Raises:
        TrainingError: either is NaN or infinite; names the documents of the batch.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    documents = sorted(set(batch.document_ids.ravel().tolist()) - {-1})
    named = ", ".join(map(str, documents[:8])) + (" ..." if len(documents) > 8 else "")
    raise TrainingError(
        f"step {step}: loss {loss}, gradient norm {grad_norm}",
        f"the weights were not updated; the batch contained documents {named}; "
        "the last checkpoint is good",
        "lower optim.learning_rate or raise optim.warmup_fraction; "
        "look at the batch with `ladderlm inspect`",
    )


def check_weights(model: nn.Module, step: int) -> None:
    """Check weights before they are saved.

    Raises:
        TrainingError: a weight is not finite; older checkpoints stay.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(local_part(weight)[0]).all()):
            raise TrainingError(
                f"step {step}: {name} has values that are not finite (nan or infinity)",
                "nothing was saved; the last checkpoint is good",
                "lower optim.learning_rate, or run the same command again to resume from it",
            )


@contextmanager
def explain_memory(micro_batch_seqs: int, step: int) -> Iterator[None]:
    """Raise TrainingError, with the options to change, where memory is exhausted."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        plain = not isinstance(error, torch.OutOfMemoryError | MemoryError)
        if plain and "allocate memory" not in str(error):
            raise
        first = (str(error) or type(error).__name__).splitlines()[0][:200]
        smaller = max(micro_batch_seqs // 2, 1)
        fix = f"set execution.micro_batch_seqs to {smaller} (the global batch stays as it is)"
        if smaller == micro_batch_seqs:
            fix = "use a shorter data.seq_len or a smaller model"
        raise TrainingError(
            f"step {step}: out of memory with micro-batches of {micro_batch_seqs} rows",
            f"{first}; the last checkpoint is good",
            f"{fix}, execution.recompute to 'layers', or on several processes execution.shard",
        ) from error
