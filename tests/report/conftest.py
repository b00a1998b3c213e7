"""Studies and runs to report on, carried out once for all tests of this folder."""

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builders import InOwnProcess, make_records, tiny_study, write_jsonl, write_study
from ladderlm.prepare.prepare import PrepareConfig, prepare
from ladderlm.report import data_facts
from ladderlm.report.render import write_report
from ladderlm.study.study import Study
from reference.hostile import ALL, HOSTILE


@dataclass(frozen=True)
class Sources:
    """What a report is made of."""

    study: Path
    pool: Path
    run: Path


@pytest.fixture(scope="session", autouse=True)
def _count_bytes_once() -> Iterator[None]:
    """Count the bytes of one text once, not once a test: tables of 2^24 numbers take a second."""
    slow = data_facts.trivial_models
    known = functools.lru_cache(maxsize=8)(lambda train, val: slow(train, val))
    patch = pytest.MonkeyPatch()
    patch.setattr(data_facts, "trivial_models", lambda train, val: known(tuple(train), tuple(val)))
    yield
    patch.undo()


def build(folder: Path, values: dict[str, Any]) -> Sources:
    """Carry out a study and return it with one of its runs."""
    file = write_study(folder / "tiny.toml", values)
    study = Study.open(file, folder / "study")
    study.run(InOwnProcess())
    plan = study.plan()
    study.fit()
    return Sources(study.folder, study.pool, study.pool / plan.runs[-1].run_id)


@pytest.fixture(scope="session")
def sources(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """A study of two arms on three rungs: copy it before changing anything."""
    values = tiny_study(tiny_data)
    values["base"]["eval"] |= {"sample_prompts": ["def "]}
    return build(tmp_path_factory.mktemp("sources"), values)


@pytest.fixture(scope="session")
def report(sources: Sources) -> Path:
    """The report of that study, beside it; not to be written into."""
    return write_report(sources.study.parent / "report", [], [sources.study]).parent


@pytest.fixture(scope="session")
def hostile(tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """A study whose every text that a stranger may choose does harm where it is not escaped."""
    folder = tmp_path_factory.mktemp("hostile")
    for split, n in (("train", 40), ("val", 8)):
        records = make_records(n, seed=len(split))
        for i, record in enumerate(records):
            record["text"] = f"{i} {ALL} {record['text']}"
            record["meta"]["pile_set_name"] = ALL if i % 2 else HOSTILE["image"]
        write_jsonl(folder / f"corpus/{split}.jsonl", records)
    data = folder / "data"
    tokenizer = str(tiny_tokenizer_folder)
    prepare(PrepareConfig(sources=(str(folder / "corpus"),), tokenizer=tokenizer, out=str(data)))
    prompts = list(HOSTILE.values())
    values = tiny_study(
        data,
        question=ALL,
        rationale=ALL,
        arm=[
            {"name": ALL, "hypothesis": ALL},
            {
                "name": HOSTILE["image"],
                "hypothesis": ALL,
                "set": {"model.mlp": "gelu", "eval.sample_prompts": prompts},
            },
        ],
    )
    values["ladder"]["flops"] = values["ladder"]["flops"][:2]
    values["base"]["eval"] |= {"sample_prompts": prompts, "sample_tokens": 4}
    return build(folder, values)


@pytest.fixture
def copy_sources(tmp_path: Path, sources: Sources) -> Callable[[], Sources]:
    """Return a copy that may be changed, without its checkpoints."""

    def give() -> Sources:
        skip = shutil.ignore_patterns("checkpoints", ".requests")
        study = shutil.copytree(sources.study, tmp_path / "study", ignore=skip)
        return Sources(study, study / "runs", study / "runs" / sources.run.name)

    return give
