"""Write the map of the package, docs/design/house.md and the short form of it in the README.

python docs/house.py [--check]      --check writes nothing and fails if a page is old

Owns the table of rooms, which the layer test keeps true, and the way of one document through them.
"""
# ruff: noqa: T201

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

from ladderlm.files import publish_text

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/design/house.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- made by docs/house.py -->\n", "<!-- end of what docs/house.py made -->\n"


@dataclass(frozen=True)
class Room:
    """One package below src/ladderlm/.

    Args:
        name: of its folder; `floor` holds the modules of the root.
        floor: it imports from lower floors only; rooms of one floor are strangers.
        owns: its one purpose.
        callers: the only rooms that may import it; (): every room above it.
    """

    name: str
    floor: int
    owns: str
    callers: tuple[str, ...] = ()


ROOMS = (
    Room("cli", 9, "one thin file per command: options, printing, exit codes"),
    Room("report", 8, "facts of runs and studies, figures, the document and its verification"),
    Room("study", 7, "an ablation: plan a ladder of runs, run it, collect, fit, judge"),
    Room("compat", 6, "Meta's names for our engine", ("cli",)),
    Room("foreign", 6, "other people's models as subjects of an evaluation", ("cli",)),
    Room("convert", 5, "models from and to other formats", ("cli", "compat", "foreign")),
    Room("bench", 5, "the speed of a step, compared with others and with the machine's peak"),
    Room(
        "executors", 5, "run a command line on some machine, with resources; independent of models"
    ),
    Room("scaling", 5, "scaling laws and comparisons of arms, from plain numbers"),
    Room("run", 4, "carry out one run: settle the config, execute, finish, evaluate"),
    Room("training", 3, "the config of a run, the training loop, one update, the state"),
    Room("checkpoint", 2, "save and load states, choose which one to use"),
    Room(
        "eval",
        2,
        "bits per byte of documents, paired comparisons, checks that batches are masked right",
    ),
    Room("generation", 2, "continue prompts with a key/value cache"),
    Room("prepare", 2, "raw text to verified shards", ("cli",)),
    Room("data", 1, "shards to rows, rows to batches"),
    Room(
        "model",
        1,
        "the transformer, with Meta's names; its loss; counts of parameters and FLOPs; no file I/O",
    ),
    Room("optim", 1, "optimizers, parameter groups, learning-rate schedules"),
    Room("corpus", 0, "where raw text is, fetching it, reading it"),
    Room("tokenizer", 0, "text to token ids and back; training a vocabulary"),
    Room("floor", -1, "errors, config, files, processes, machine, units: the modules of the root"),
)


@dataclass(frozen=True)
class Stage:
    """One part of the way of a document.

    Args:
        name: a word.
        command: of `ladderlm`, which starts it.
        files: path below src/ladderlm/ -> what happens to the document there, in order.
        makes: what the next stage reads.
    """

    name: str
    command: str
    files: dict[str, str]
    makes: str


WAY = (
    Stage(
        "corpus",
        "fetch",
        {
            "corpus/local.py": "collects the text of the packages on this machine",
            "corpus/pile.py": "downloads files of the Pile",
        },
        "`.jsonl.zst`, `.txt`",
    ),
    Stage(
        "prepare",
        "prepare",
        {
            "corpus/documents.py": "reads one document and checks it",
            "tokenizer/bpe.py": "turns its text into token ids",
            "prepare/prepare.py": "runs both in worker processes",
            "data/shard_writer.py": "writes BOS + ids + EOS to a shard and counts bytes",
        },
        "`shards/`, `manifest.json`",
    ),
    Stage(
        "rows",
        "inspect",
        {
            "data/shards.py": "opens the shards and checks their hashes",
            "data/packing.py": "cuts documents into rows, in a seeded order",
            "data/stream.py": "reads the rows of a step; makes the loss mask that keeps "
            "padding out of the loss",
            "data/batch.py": "defines `Batch`, the result",
        },
        "`Batch` in memory",
    ),
    Stage(
        "train",
        "train",
        {
            "training/run_config.py": "the options of a run; their hash is its id",
            "run/execute.py": "opens or resumes the run folder and builds the model",
            "training/loop.py": "the loop: update, log, validate, save",
            "training/step.py": "one update: forward, backward, clip, optimizer",
            "model/transformer.py": "maps tokens to hidden states, layer by layer",
            "model/attention.py": "attends within the document",
            "model/mlp.py": "the MLP variants, chosen by `mlp` in model/config.py",
            "model/loss.py": "nats per token, summed where that mask is true",
            "optim/groups.py": "which optimizer updates which weights",
            "checkpoint/save.py": "writes checkpoints",
        },
        "`runs/ID/`: `config.json`, `metrics.jsonl`, `checkpoints/`, `summary.json`",
    ),
    Stage(
        "eval",
        "eval, generate",
        {
            "run/subject.py": "opens a run's checkpoint and its data",
            "eval/evaluate.py": "evaluates it, or finds the stored result",
            "eval/meter.py": "scores every token of a document once, and counts its bytes",
            "generation/engine.py": "continues a prompt instead",
        },
        "`runs/ID/evals/`",
    ),
    Stage(
        "study",
        "study",
        {
            "study/spec.py": "reads the study file: base, arms, ladder",
            "study/plan.py": "lists all runs before any of them starts",
            "study/launch.py": "submits them to an executor",
            "study/results.py": "collects one row per run",
            "scaling/joint.py": "fits the law of the ladder",
            "scaling/compare.py": "how much compute a change saves, with an interval",
            "study/verdict.py": "the rules of the verdict, 0 to 6, each by its number",
        },
        "`results.csv`, `fits.json`, `forecast.json`",
    ),
    Stage(
        "report",
        "report",
        {
            "report/facts.py": "collects everything that is shown",
            "report/sections.py": "writes the text",
            "report/figures/scaling.py": "draws loss against compute",
            "report/render.py": "assembles the HTML page from report/templates/",
            "report/verify.py": "recomputes everything from the runs and compares",
        },
        "`report/index.html`",
    ),
)

HEAD = """\
# The house

Made by `docs/house.py` from its tables; do not edit. `tests/design/test_layers.py` fails when this
page, the tables and the imports of the package disagree.

The rooms of the house are the folders of `src/ladderlm/`; the lowest, `floor`, stands for the
modules directly in it. A room imports from lower levels only, and rooms on one level do not import
each other.
Where a new thing goes is listed in [CONTRIBUTING](../../CONTRIBUTING.md).
"""
MIDDLE = """\
## The path of one document

From raw text to a point in a figure. A stage leaves files with a versioned schema (or the `Batch`),
so that each can be run, tested or replaced by itself.
"""


def draw_house() -> list[str]:
    """Return the drawing, top floor first, one line per room."""
    width = max(len(room.name) for room in ROOMS)
    lines = ["```text"]
    for _, rooms in itertools.groupby(ROOMS, lambda room: room.floor):
        lines += [f"| {room.name:<{width}} | {room.owns}" for room in rooms]
        lines.append("+" + "-" * (width + 2) + "+" + "-" * 76)
    return [*lines[:-1], "```"]


def draw_way() -> list[str]:
    """Return a table of the stages, each with its files in a row."""
    lines = [
        "| stage | command | files in `src/ladderlm/`, in order | leaves |",
        "|---|---|---|---|",
    ]
    for stage in WAY:
        files = ", ".join(f"`{path}`" for path in stage.files)
        lines.append(f"| {stage.name} | `{stage.command}` | {files} | {stage.makes} |")
    return lines


def page() -> str:
    """Return docs/design/house.md."""
    lines = [HEAD, *draw_house(), ""]
    for room in ROOMS:
        if room.callers:
            names = ", ".join(f"`{name}`" for name in room.callers)
            lines += [f"`{room.name}` is imported by {names} only.", ""]
    lines.append(MIDDLE)
    for number, stage in enumerate(WAY, 1):
        lines += [
            f"### {number}. {stage.name}: `ladderlm {stage.command}`".replace(", ", "`, `"),
            "",
        ]
        lines += [
            f"- [{path}](../../src/ladderlm/{path}): {does}" for path, does in stage.files.items()
        ]
        lines += ["", f"Leaves {stage.makes}.", ""]
    return "\n".join(lines)


def readme() -> str:
    """Return the README with its short form of the map."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    lines = [
        "The rooms of `src/ladderlm/`: each imports from those below it only.",
        "",
        *draw_house(),
        "",
        "The path of one document through them ([file by file](docs/design/house.md)):",
        "",
        *draw_way(),
    ]
    return before + BEGIN + "\n".join(lines) + "\n" + END + after


def main(argv: list[str]) -> int:
    """Write both pages, or report that they are old; return the exit code."""
    texts = {PAGE: page(), README: readme()}
    if "--check" in argv:
        old = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
        print("run python docs/house.py" if old else "the map is up to date")
        return 1 if old else 0
    for path, text in texts.items():
        publish_text(path, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
