"""The tree of errors that a user may see.

Owns the types and their message in three parts. `cli/` prints them.

    LadderError
    ├── ConfigError      an option, a config file or a study file is wrong       exit 2
    ├── DataError        a corpus, tokenizer or prepared shard is wrong          exit 2
    ├── CheckpointError  a run folder or checkpoint cannot be used               exit 2
    ├── TrainingError    a run had to stop (non-finite loss, memory, disk)       exit 1
    └── ExecutorError    a job could not be started or failed                    exit 1
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ExecutorError",
    "LadderError",
    "Stopped",
    "TrainingError",
]


class LadderError(Exception):
    """Base class of all errors.

    Args:
        what: the rule that is broken, with the value and the file (and line) it comes from.
        why: the consequence, if there is one to name.
        fix: what the user should do next, as an imperative.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(what, why, fix)

    def __str__(self) -> str:
        why, fix = self.why and f"\n  why: {self.why}", self.fix and f"\n  fix: {self.fix}"
        return f"{self.what}{why}{fix}"


class ConfigError(LadderError):
    """An option, a config file or a study file is wrong."""

    exit_code = 2


class DataError(LadderError):
    """A corpus, a tokenizer or a prepared shard is wrong."""

    exit_code = 2


class CheckpointError(LadderError):
    """A run folder or a checkpoint cannot be used as asked."""

    exit_code = 2


class TrainingError(LadderError):
    """A run had to stop; what it saved before is still valid."""


class ExecutorError(LadderError):
    """A job could not be started, or failed."""


class Stopped(BaseException):
    """Stop by a signal, after the run has been saved; the exit code is 128 + signal_number.

    It is not an error: it derives from BaseException so that no `except Exception` swallows it.
    """

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
        super().__init__(f"stopped by signal {signal_number}")
