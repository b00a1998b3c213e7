"""What is decided over all documents of a split in order: limits, duplicates, overlap, counts."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_records, write_jsonl
from ladderlm.data.shards import open_data
from ladderlm.errors import ConfigError, DataError
from ladderlm.prepare import dedup, overlap
from ladderlm.prepare import request as request_module
from ladderlm.prepare.overlap import count_common, write_hashes
from ladderlm.prepare.prepare import PrepareConfig, estimate_prepare, prepare

RECORDS = make_records(40, seed=1)


@pytest.fixture
def config(tiny_tokenizer_folder, tmp_path, monkeypatch):
    """Return a builder of requests on records, cut into many pieces."""
    monkeypatch.setattr(request_module, "BLOCK_BYTES", 300)
    monkeypatch.setattr(request_module, "PIECE_BLOCKS", 2)

    def build(records=RECORDS, **fields):
        source = write_jsonl(tmp_path / "corpus" / "train.jsonl", records)
        fields = {"out": str(tmp_path / "data"), "sources": (str(source),)} | fields
        return PrepareConfig(tokenizer=str(tiny_tokenizer_folder), **fields)

    return build


def texts_of(folder, tokenizer):
    split = open_data(folder).split("train")
    return [tokenizer.decode(split.document(i).tolist()) for i in range(split.n_documents)]


@pytest.mark.parametrize("what", ["documents", "tokens", "bytes"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.77, 1.0, 2.0])
def test_a_limit_takes_the_longest_beginning_that_keeps_it(
    config, tmp_path, tiny_tokenizer, what, share
):
    sizes = {
        "documents": [1 for _ in RECORDS],
        "tokens": [len(tiny_tokenizer.encode(r["text"])) + 2 for r in RECORDS],
        "bytes": [len(r["text"].encode()) for r in RECORDS],
    }[what]
    limit = max(int(sum(sizes) * share), sizes[0])
    manifest = prepare(config(**{f"max_{what}": limit}))
    n = sum(np.cumsum(sizes) <= limit)
    assert texts_of(tmp_path / "data", tiny_tokenizer) == [r["text"] for r in RECORDS[:n]]
    assert manifest["splits"]["train"][f"n_{what}"] <= limit


def test_a_limit_below_the_first_document_is_refused(config):
    with pytest.raises(DataError, match="has no documents") as caught:
        prepare(config(max_bytes=3))
    assert "larger limit" in caught.value.fix


@pytest.mark.parametrize("field", ["max_documents", "max_tokens", "max_bytes", "n_workers"])
def test_a_limit_is_at_least_one(config, field):
    with pytest.raises(ConfigError):
        config(**{field: 0})


def test_exact_duplicates_are_removed_but_for_the_first(config, tmp_path, tiny_tokenizer):
    copies = [RECORDS[3] | {"meta": {"pile_set_name": "Copy"}}, RECORDS[30], RECORDS[3]]
    records = [*RECORDS[:20], copies[0], *RECORDS[20:], copies[1], copies[2]]
    kept = prepare(config(records, out=str(tmp_path / "kept")))["splits"]["train"]
    assert kept["duplicates"] == {"exact_removed": 0, "exact_kept": 3, "folded_kept": 3}
    entry = prepare(config(records, dedup="exact"))["splits"]["train"]
    assert texts_of(tmp_path / "data", tiny_tokenizer) == [r["text"] for r in RECORDS]
    assert entry["duplicates"] == {"exact_removed": 3, "exact_kept": 0, "folded_kept": 0}
    assert entry["taken"] == [
        {"n_documents": 43, "n_bytes": sum(len(r["text"].encode()) for r in records)}
    ]
    assert "Copy" not in entry["subset_names"]  # no document of it is left


def test_duplicates_are_found_on_disk_as_in_memory(config, tmp_path, monkeypatch):
    """The keys of a corpus may be more than memory holds."""
    records = RECORDS + RECORDS[::3] + RECORDS[::2]
    expected = prepare(config(records, dedup="exact", near_duplicates=True))
    original = dedup.KeyTable.__init__
    monkeypatch.setattr(
        dedup.KeyTable, "__init__", lambda self, folder: original(self, folder, run_entries=7)
    )
    again = prepare(
        config(records, dedup="exact", near_duplicates=True, out=str(tmp_path / "again"))
    )
    assert again == expected
    assert again["splits"]["train"]["n_documents"] == len(RECORDS)


def test_limits_count_documents_before_duplicates_go(config, tmp_path, tiny_tokenizer):
    records = [RECORDS[0]] * 5 + RECORDS[1:9]
    prepare(config(records, dedup="exact", max_documents=7))
    expected = [r["text"] for r in RECORDS[:3]]
    assert texts_of(tmp_path / "data", tiny_tokenizer) == expected


def test_near_duplicates_are_counted_with_their_parameters(config):
    """A changed word in a long text is near; other texts are not; copies are not counted twice."""
    long = [{"text": " ".join(r["text"] for r in RECORDS[i : i + 9])} for i in (0, 10, 20)]
    near = [{"text": long[0]["text"].replace(" ", "  ", 1)}, {"text": long[2]["text"] + " end"}]
    records = long + near + [long[1]]
    found = prepare(config(records, dedup="exact", near_duplicates=True))
    entry = found["splits"]["train"]["duplicates"]
    assert entry["exact_removed"] == 1
    assert entry["near"]["n_documents"] == 2
    assert {"method", "shingle_tokens", "bands", "rows"} < set(entry["near"])


@given(
    these=st.lists(st.integers(0, 12), max_size=40),
    those=st.lists(st.integers(0, 12), max_size=40),
    step=st.integers(1, 7),
)
def test_common_hashes_are_counted_as_the_naive_twin_does(tmp_path_factory, these, those, step):
    folder = tmp_path_factory.mktemp("hashes")
    old, overlap._STEP = overlap._STEP, step
    try:
        for name, keys in (("a.npy", these), ("b.npy", those)):
            _, repeats = write_hashes(folder / name, [np.array(sorted(keys), np.uint64)])
            assert repeats == len(keys) - len(set(keys))
            assert np.load(folder / name).tolist() == sorted(keys)
        found = count_common(folder / "a.npy", folder / "b.npy")
    finally:
        overlap._STEP = old
    assert found == sum(key in those for key in these)


@pytest.mark.parametrize(
    "change",
    [str.upper, lambda t: t.replace(" ", "\n\t"), lambda t: f"  {t}\r\n", lambda t: t.title()],
)
def test_a_copy_but_for_case_and_white_space_is_refused_or_counted(config, tmp_path, change):
    """D13: same text, other case or white space."""
    prepare(config())
    source = write_jsonl(tmp_path / "v.jsonl", [RECORDS[7] | {"text": change(RECORDS[7]["text"])}])
    val = config(sources=(str(source),), split="val")
    with pytest.raises(DataError, match=r"1 documents of 'val' .* except for case and white space"):
        prepare(val)
    allowed = config(sources=(str(source),), split="val", allow_overlap=True)
    assert prepare(allowed)["overlap"] == {"train_val_exact": 0, "train_val_folded": 1}


def test_what_each_source_gave_and_what_was_left_out_is_listed(config, tmp_path):
    """D06: counts and places, without the folder where the corpus lay."""
    first = write_jsonl(tmp_path / "corpus/a.jsonl", RECORDS[:9])
    second = tmp_path / "corpus/b.jsonl"
    lines = [json.dumps(r) for r in RECORDS[9:12]]
    second.write_text("\n".join([lines[0], "{", *lines[1:], '{"text": 5}', ""]))
    config_of = config(sources=(str(first), str(second)), skip_bad=True)
    entry = prepare(config_of)["splits"]["train"]
    assert [taken["n_documents"] for taken in entry["taken"]] == [9, 3]
    assert entry["skipped"] == {"no text": 1, "not JSON": 1}
    places = [example.split(":")[:2] for example in entry["skipped_examples"]]
    assert places == [["b.jsonl", "2"], ["b.jsonl", "5"]]
    assert str(tmp_path) not in json.dumps(entry)


def test_a_damaged_hash_file_of_an_older_split_is_seen(config, tmp_path):
    """D13: else overlap would be missed in silence."""
    prepare(config())
    path = tmp_path / "data/train-texts-exact.npy"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    source = write_jsonl(tmp_path / "v.jsonl", make_records(3, seed=77))
    with pytest.raises(DataError, match=r"train-texts-exact\.npy is damaged"):
        prepare(config(sources=(str(source),), split="val"))


def test_the_estimate_is_near_what_comes_out(config, tmp_path, monkeypatch):
    monkeypatch.setattr(request_module, "BLOCK_BYTES", 1 << 20)
    records = make_records(3000, seed=4)
    source = write_jsonl(tmp_path / "large.jsonl", records)
    expected = estimate_prepare(config(sources=(str(source),)))
    entry = prepare(config(sources=(str(source),)))["splits"]["train"]
    for found, true in (
        (expected.n_documents, entry["n_documents"]),
        (expected.text_bytes, entry["n_bytes"]),
        (expected.n_tokens, entry["n_tokens"]),
        (expected.data_bytes, sum(f.stat().st_size for f in (tmp_path / "data").glob("train-*"))),
    ):
        assert 0.8 * true < found < 1.25 * true
    assert expected.disk_bytes > expected.data_bytes
    assert expected.seconds > 0
    few = estimate_prepare(config(sources=(str(source),), max_documents=30))
    assert few.n_documents == pytest.approx(30)
    assert few.n_tokens < expected.n_tokens / 20


def test_an_estimate_keeps_nothing(config, tmp_path):
    estimate_prepare(config())
    assert not Path(tmp_path / "data").exists()
