"""The one tree of errors that a user may see.

Owns the types and their three-part message; does not own how they are printed (`cli/`).

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
    """Return what is wrong, why it matters and how to fix it.

    Args:
        what: the fault, with the offending value and the file (and line) it came from.
        why: the reason it cannot be accepted.
        fix: what the user should do next.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(what, why, fix)

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


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
    """A run had to stop; what was saved before stays good."""


class ExecutorError(LadderError):
    """A job could not be started, or failed."""


class Stopped(BaseException):
    """A signal asked for an end and everything worth keeping has been saved.

    Not an error: it derives from BaseException so that no `except Exception` swallows it.

    Args:
        signal_number: SIGTERM gives exit code 143, SIGINT 130, others 128 + number.
    """

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
        super().__init__(f"stopped by signal {signal_number}")
