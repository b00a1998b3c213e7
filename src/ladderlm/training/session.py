"""The resources of one training process.

Owns `Session` and the logs of a run, which only the first process writes.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladderlm.data.shards import Split
from ladderlm.dist import Processes
from ladderlm.eval.meter import Scoring, head_documents
from ladderlm.files import AppendLog
from ladderlm.tokenizer.base import Tokenizer
from ladderlm.tokenizer.prompt import EncodedPrompt, encode_prompt
from ladderlm.training.guards import SignalFlag
from ladderlm.training.run_config import RunConfig
from ladderlm.training.throughput import Peaks
from ladderlm.watch import UNWATCHED, Watch

__all__ = ["Logs", "Session"]


class Logs:
    """metrics.jsonl and samples.jsonl of a run, truncated to the step that it resumes from.

    Args:
        files: the two; without them, as in every process but the first, rows are dropped.
        last_step: existing rows of later steps are dropped.
        observe: called with every row of metrics.
    """

    def __init__(
        self,
        files: Sequence[Path] = (),
        last_step: int = -1,
        observe: Callable[[dict[str, Any]], None] = lambda _row: None,
    ) -> None:
        def keep(row: dict[str, Any]) -> bool:
            return bool(row.get("step", 0) <= last_step)

        self._files, self._observe = [AppendLog(file, keep) for file in files], observe

    def write(self, row: dict[str, Any]) -> None:
        """Log a row of metrics and pass it to the observer."""
        for file in self._files[:1]:
            file.write(row)
            self._observe(row)

    def write_sample(self, row: dict[str, Any]) -> None:
        """Log a text written during the run."""
        for file in self._files[1:]:
            file.write(row)

    def sync(self) -> None:
        """Force what was logged to disk."""
        for file in self._files:
            file.sync()

    def close(self) -> None:
        """Sync and close."""
        for file in self._files:
            file.close()


@dataclass
class Session:
    """Everything of one training process except its state."""

    config: RunConfig  # settled for this machine
    processes: Processes
    flag: SignalFlag
    checkpoints: Path  # folder of all checkpoints
    validation: Split
    tokenizer: Tokenizer
    peaks: Peaks
    began: float  # monotonic seconds at which this process began to open the run
    logs: Logs = field(default_factory=Logs)
    validated: frozenset[int] = frozenset()  # steps whose validation the logs already contain
    sampled: frozenset[int] = frozenset()  # steps whose texts the logs already contain
    saved_step: int | None = None  # of the checkpoint that the state came from; None: there is none

    @property
    def watch(self) -> Watch:
        """Check that stops scoring at a signal; several processes stop together, between steps."""
        return Watch(self.flag.check) if self.processes.world_size == 1 else UNWATCHED

    @property
    def scoring(self) -> Scoring:
        """Processes that share validation, and its check for signals."""
        return Scoring(processes=self.processes, watch=self.watch)

    @functools.cached_property
    def head(self) -> NDArray[np.int64]:
        """Documents of the validation head."""
        wanted = self.config.eval
        return head_documents(self.validation, wanted.n_documents, wanted.head_tokens or 1)

    @functools.cached_property
    def prompts(self) -> list[EncodedPrompt]:
        """Prompts of the samples: empty ones, then those of the config."""
        config = self.config
        texts = [*([""] * config.eval.n_samples), *config.eval.sample_prompts]
        room = config.model.max_seq_len - 1
        return [encode_prompt(self.tokenizer, text, room) for text in texts]
