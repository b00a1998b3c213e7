"""The `ladderlm` command.

Owns the table of commands, and turns errors into messages and exit codes: 0 done, 1 failed, 2 wrong
use or bad input, 130 interrupted, 143 stopped by SIGTERM after saving.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ladderlm.errors import LadderError, Stopped

__all__ = ["main"]

_STUDY = ("plan", "run", "status", "fit", "report", "merge")
GROUPS: dict[str, dict[str, tuple[str, str, tuple[str, ...]]]] = {
    # command: module, what it does, verbs
    "data": {
        "fetch": (
            "fetch",
            "get a corpus: text of installed packages, or the Pile",
            ("local", "pile"),
        ),
        "tokenizer": ("tokenizer", "make a tokenizer, or look at one", ("train", "import", "show")),
        "prepare": ("prepare", "encode text into verified token shards", ()),
    },
    "train": {
        "quickstart": ("quickstart", "do everything once on local text, from data to report", ()),
        "train": ("train", "train a model, or resume one", ()),
    },
    "look": {
        "inspect": ("inspect", "show batches as the model sees them, and prove them right", ()),
        "eval": ("evaluate", "score text in bits per byte, by subset; compare models", ()),
        "generate": ("generate", "continue a prompt, or write from nothing", ()),
        "chat": ("chat", "chat with a model in the terminal", ()),
    },
    "decide": {
        "study": ("study", "compare variants over a ladder of compute", _STUDY),
        "fit": ("fit", "fit a scaling law to any table of results", ()),
    },
    "share": {
        "report": ("report", "write one page about runs and studies, or check one", ("verify",)),
        "convert": ("convert", "convert from and to Meta, Hugging Face and GGUF files", ()),
    },
    "check": {
        "verify": ("verify", "check a run or prepared data against its hashes", ()),
        "bench": ("bench", "compare the speed of a training step with other code", ()),
        "profile": ("profile", "show where a training step spends its time", ()),
        "doctor": ("doctor", "list versions, hardware and optional packages", ()),
    },
}
COMMANDS = {name: entry[0] for group in GROUPS.values() for name, entry in group.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Threads that spin for long at barriers block as soon as another process wants a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except Stopped as stop:
        _complain(f"{stop}; the progress is saved. The same command resumes it.")
        return stop.exit_code
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for the interpreter's last flush
        return 1
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """Print a message without a traceback, and return the exit code."""
    code = 1
    if isinstance(error, LadderError):
        text, code = str(error), error.exit_code
    elif isinstance(error, MemoryError):
        text = "out of memory\n  fix: lower execution.micro_batch_seqs, or use a smaller model"
    elif isinstance(error, NotADirectoryError) and error.filename:
        place = Path(os.fsdecode(error.filename))
        file = next((p for p in (place, *place.parents) if p.exists() and not p.is_dir()), place)
        text = f"{file} must be a folder, but is a file\n  fix: name another folder"
    elif isinstance(error, OSError):
        text = f"{error}\n  fix: check the path, its permissions and the free space"
    else:
        text = f"{type(error).__name__}: {error}\n  this is a bug: run it again with --debug"
    _complain(f"error: {text}")
    return code


def _complain(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # standard error is closed
        print(text, file=sys.stderr, flush=True)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        _print_help()
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"ladderlm {version('ladderlm')}")
        return 0
    if words[0] not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "`ladderlm --help` lists them"
        _complain(f"error: unknown command {words[0]!r}\n  fix: {hint}")
        return 2
    module = importlib.import_module(f"ladderlm.cli.{COMMANDS[words[0]]}")
    code: int = module.run(words[1:])
    sys.stdout.flush()
    return code


def _print_help() -> None:
    print("usage: ladderlm COMMAND [options]      ladderlm COMMAND --help")
    width = max(map(len, COMMANDS))
    for group, commands in GROUPS.items():
        print(f"\n{group}")
        for name, (_, line, verbs) in commands.items():
            print(f"  {name:<{width}}  {line}" + (f" ({', '.join(verbs)})" if verbs else ""))
    print("\n--debug with any command shows the traceback of an error; --version the version.")


if __name__ == "__main__":
    sys.exit(main())
