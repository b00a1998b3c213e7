"""`pile.json`: what is refused, and which files count as there."""

import json
import threading

import pytest

from ladderlm.corpus.fetch import Fetched
from ladderlm.corpus.head import HeadLimits
from ladderlm.corpus.pile_record import PileRecord
from ladderlm.corpus.pile_sources import Place
from ladderlm.errors import DataError

PLACE = Place("owner/name", "", "the Pile", (".jsonl.zst",), "a note")
WHOLE = {"part": "whole", "checksum_known_beforehand": True}


def add(record, name, data=b"x"):
    """Record a file of which all but the record is made up."""
    path = record.out / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    record.add(PLACE, name, Fetched(path, len(data), "0" * 64, True), WHOLE)


def test_entries_are_sorted_and_written_at_once(tmp_path):
    record = PileRecord(tmp_path)
    for name in ("val.jsonl.zst", "train/07.jsonl.zst", "train/00.jsonl.zst"):
        add(record, name)
    written = json.loads((tmp_path / "pile.json").read_text())
    assert list(written["files"]) == ["train/00.jsonl.zst", "train/07.jsonl.zst", "val.jsonl.zst"]
    assert PileRecord(tmp_path).value == written
    assert record.corpus_of_train() == "the Pile"


def test_no_entry_is_lost_when_threads_record_at_once(tmp_path):
    record = PileRecord(tmp_path)
    names = [f"train/{n:02d}.jsonl.zst" for n in range(12)]
    threads = [threading.Thread(target=add, args=(record, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(json.loads((tmp_path / "pile.json").read_text())["files"]) == names


def test_a_file_whose_bytes_are_not_those_recorded_is_not_there(tmp_path):
    record = PileRecord(tmp_path)
    add(record, "val.jsonl.zst")
    assert not record.has("val", HeadLimits(), lambda line: None)
    assert not record.has("test", HeadLimits(), lambda line: None)


ENTRY = {
    "source": "s",
    "corpus": None,
    "note": "n",
    "n_bytes": 1,
    "sha256": "0" * 64,
    "part": "whole",
}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "not a record of Pile files"),
        ({"kind": "ladderlm-data", "format_version": 1, "files": {}}, "not a record of Pile files"),
        ({"kind": "ladderlm-pile", "format_version": 2, "files": {}}, "not a record of Pile files"),
        ({"kind": "ladderlm-pile", "format_version": 1}, "'files' is damaged"),
        ({"kind": "ladderlm-pile", "format_version": 1, "files": []}, "'files' is damaged"),
        *(
            (
                {"kind": "ladderlm-pile", "format_version": 1, "files": {"a": entry}},
                "'a' is damaged",
            )
            for entry in (
                None,
                {},
                {**ENTRY, "part": "head"},
                *({k: v for k, v in ENTRY.items() if k != left_out} for left_out in ENTRY),
            )
        ),
    ],
)
def test_a_record_of_another_kind_or_a_damaged_one_is_refused(value, says, tmp_path):
    """C23, D19: nothing is overwritten that is not understood."""
    (tmp_path / "pile.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=says):
        PileRecord(tmp_path)


def test_a_record_that_is_no_json_names_line_and_column(tmp_path):
    (tmp_path / "pile.json").write_text("{")
    with pytest.raises(DataError, match=r"pile\.json:1:2: not valid JSON"):
        PileRecord(tmp_path)
