"""Raw documents out of prepared data and out of files."""

import json
import shutil

import pytest

from builders import make_records, write_jsonl
from ladderlm.errors import DataError
from ladderlm.eval.texts import read_texts


def test_text_out_of_prepared_data_is_the_text_of_its_source(tiny_data, tmp_path):
    """The same documents by their hashes, whatever they were prepared with."""
    source = write_jsonl(tmp_path / "val.jsonl", make_records(12, seed=2))
    one, two = (read_texts(place, "val", 100) for place in (tiny_data, source))
    assert one.texts == two.texts
    assert one.fingerprint == two.fingerprint
    assert (one.n_all, two.n_all) == (12, 12)
    some = read_texts(source, "val", 5)
    assert (some.texts, some.n_all) == (one.texts[:5], None)
    assert two.source["files"][0]["name"] == "val.jsonl"
    with pytest.raises(DataError, match="does not exist"):
        read_texts(tmp_path / "nowhere", "val", 5)


def test_tokens_that_do_not_stand_for_the_text_are_refused(tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["splits"]["val"]["n_bytes"] += 1
    (data / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="does not match its own fingerprint"):
        read_texts(data, "val", 5)


def test_other_texts_or_subsets_have_another_fingerprint(tmp_path):
    records = make_records(4, seed=3)
    one = read_texts(write_jsonl(tmp_path / "a.jsonl", records), "val", 9)
    records[1]["meta"]["pile_set_name"] = "Other"
    two = read_texts(write_jsonl(tmp_path / "b.jsonl", records), "val", 9)
    records[1]["text"] += " "
    three = read_texts(write_jsonl(tmp_path / "c.jsonl", records), "val", 9)
    assert len({one.fingerprint, two.fingerprint, three.fingerprint}) == 3
    assert two.subset_names == ("Code", "Other", "Prose")
    assert [two.subset_names[i] for i in two.subset_ids] == [
        record["meta"]["pile_set_name"] for record in records
    ]


def test_a_folder_is_cut_into_splits_as_prepare_cuts_it(tmp_path):
    write_jsonl(tmp_path / "raw/train/00.jsonl", make_records(3, seed=4))
    write_jsonl(tmp_path / "raw/val.jsonl", make_records(2, seed=5))
    assert read_texts(tmp_path / "raw", "val", 9).texts[0] == make_records(1, seed=5)[0]["text"]
    assert len(read_texts(tmp_path / "raw", "train", 9).texts) == 3
    with pytest.raises(DataError, match="has no split 'test'"):
        read_texts(tmp_path / "raw", "test", 9)
    assert len(read_texts(tmp_path / "raw/train", "val", 9).texts) == 3  # no names, no splits
