"""Text to shards: equal bytes whatever happens on the way, and counts that anyone can redo."""

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from builders import content_of, make_records, write_jsonl
from ladderlm.data.shard_writer import SplitWriter
from ladderlm.data.shards import open_data
from ladderlm.errors import CheckpointError, ConfigError, DataError
from ladderlm.files import FolderLock
from ladderlm.prepare import prepare as prepare_module
from ladderlm.prepare import request as request_module
from ladderlm.prepare.prepare import PrepareConfig, prepare
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.tokenizer.train import save_tokenizer

TRAIN, VAL = make_records(40, seed=1), make_records(8, seed=2)


@pytest.fixture
def corpus(tmp_path):
    """A folder with train and val."""
    write_jsonl(tmp_path / "corpus/train.jsonl", TRAIN)
    write_jsonl(tmp_path / "corpus/val.jsonl", VAL)
    return tmp_path / "corpus"


@pytest.fixture
def config(corpus, tiny_tokenizer_folder, tmp_path):
    """Return a builder of requests on that corpus."""

    def build(**fields):
        fields = {"out": str(tmp_path / "data"), "sources": (str(corpus),)} | fields
        return PrepareConfig(tokenizer=str(tiny_tokenizer_folder), **fields)

    return build


def small_pieces(monkeypatch):
    """Cut even a tiny corpus into many pieces, and let processes make them."""
    monkeypatch.setattr(request_module, "BLOCK_BYTES", 300)
    monkeypatch.setattr(request_module, "PIECE_BLOCKS", 2)
    monkeypatch.setattr(prepare_module, "SMALL_BYTES", 0)


def test_a_corpus_becomes_its_naive_twin(config, corpus, tmp_path, tiny_tokenizer):
    """Every document: BOS, tokens of its text, EOS; counts per subset as anyone would count."""
    manifest = prepare(config())
    data = open_data(tmp_path / "data")
    for name, records in (("train", TRAIN), ("val", VAL)):
        split = data.split(name)
        naive = [tiny_tokenizer.encode(record["text"], bos=True, eos=True) for record in records]
        assert [split.document(i).tolist() for i in range(split.n_documents)] == naive
        assert split.tokens(0, split.n_tokens).tolist() == list(chain(*naive))
        sizes = [len(record["text"].encode()) for record in records]
        assert split.n_bytes.tolist() == sizes
        subsets = [record["meta"]["pile_set_name"] for record in records]
        assert [split.subset_names[i] for i in split.subset_ids] == subsets
        entry = manifest["splits"][name]
        counted = {s: {"n_documents": 0, "n_bytes": 0, "n_tokens": 0} for s in set(subsets)}
        for subset, size, tokens in zip(subsets, sizes, naive, strict=True):
            for key, n in (("n_documents", 1), ("n_bytes", size), ("n_tokens", len(tokens))):
                counted[subset][key] += n
        assert entry["subsets"] == counted
        for key in ("n_documents", "n_bytes", "n_tokens"):
            assert entry[key] == sum(counts[key] for counts in counted.values())
        assert entry["n_text_tokens"] == entry["n_tokens"] - 2 * len(records)
        assert entry["max_token_id"] == tiny_tokenizer.eos_id
        file = corpus / f"{name}.jsonl"
        assert entry["request"]["sources"] == [
            {
                "name": file.name,
                "n_bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
        ]


def test_bos_and_eos_stand_at_the_ends_of_documents_and_nowhere_else(config, tmp_path):
    """D10: even for texts made of control words."""
    words = [{"text": "<|begin_of_text|><|end_of_text|></s>"}, {"text": "a"}]
    source = write_jsonl(tmp_path / "words.jsonl", words)
    prepare(config(sources=(str(source),)))
    data = open_data(tmp_path / "data")
    split = data.split("train")
    tokens = split.tokens(0, split.n_tokens)
    assert np.flatnonzero(tokens == data.bos_id).tolist() == split.offsets[:-1].tolist()
    assert np.flatnonzero(tokens == data.eos_id).tolist() == (split.offsets[1:] - 1).tolist()


def test_the_bytes_do_not_depend_on_the_number_of_workers(config, tmp_path, monkeypatch):
    """Contract, section 4: same bytes for any number of workers."""
    small_pieces(monkeypatch)
    for n_workers in (1, 2, 4):
        prepare(config(out=str(tmp_path / f"by-{n_workers}"), n_workers=n_workers))
    contents = [content_of(tmp_path / f"by-{n}") for n in (1, 2, 4)]
    assert contents[0] == contents[1] == contents[2]
    assert {"manifest.json", "train-00000.bin", "val-documents.npy"} <= set(contents[0])


def test_the_bytes_do_not_depend_on_where_the_corpus_lies(config, corpus, tmp_path):
    """A path is not part of what data is; splits made one by one equal splits made at once."""
    prepare(config())
    moved = corpus.rename(tmp_path / "moved")
    for name in ("train", "val"):
        source = str(moved / f"{name}.jsonl")
        prepare(config(out=str(tmp_path / "again"), sources=(source,), split=name))
    assert content_of(tmp_path / "again") == content_of(tmp_path / "data")


def test_repeating_a_request_writes_nothing(config, tmp_path):
    first = prepare(config())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").iterdir() if p.name != ".lock"}
    assert prepare(config(n_workers=4)) == first
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").iterdir() if p.name != ".lock"}
    assert after == before


def test_a_changed_source_is_prepared_anew(config, corpus, tmp_path):
    """D16: same name, other content."""
    first = prepare(config())
    write_jsonl(corpus / "train.jsonl", TRAIN[:-1])
    second = prepare(config())
    assert second["splits"]["train"]["n_documents"] == len(TRAIN) - 1
    assert second["splits"]["val"] == first["splits"]["val"]
    assert second["fingerprint"] != first["fingerprint"]
    assert second["splits"]["train"]["fingerprint"] != first["splits"]["train"]["fingerprint"]
    assert open_data(tmp_path / "data").split("train").n_documents == len(TRAIN) - 1


def test_fewer_shards_than_before_leave_no_orphan(config, corpus, tmp_path, monkeypatch):
    """A folder holds what its manifest names, whatever it held before."""
    write = SplitWriter.__init__

    def small_shards(self, folder, split, dtype, shard_tokens=500):
        write(self, folder, split, dtype, shard_tokens)

    monkeypatch.setattr(SplitWriter, "__init__", small_shards)
    prepare(config())
    assert len(list((tmp_path / "data").glob("train-*.bin"))) > 3
    write_jsonl(corpus / "train.jsonl", TRAIN[:2])
    manifest = prepare(config())
    named = {shard["file"] for shard in manifest["splits"]["train"]["shards"]}
    assert {path.name for path in (tmp_path / "data").glob("train-*.bin")} == named


def test_a_source_that_changes_while_it_is_read_is_refused(config, corpus, tmp_path):
    """D16: during one prepare."""
    source = corpus / "train.jsonl"
    records = make_records(1001, seed=9, n_words=9)

    def progress(split, n_done):
        write_jsonl(source, TRAIN)

    write_jsonl(source, records)
    with pytest.raises(DataError, match=r"train\.jsonl changed while it was read"):
        prepare(config(sources=(str(source),)), progress)
    assert not (tmp_path / "data/manifest.json").exists()


def test_any_change_of_text_order_or_subset_changes_the_fingerprint(config, tmp_path):
    variants = {
        "same": TRAIN[:4],
        "text": [TRAIN[0] | {"text": TRAIN[0]["text"] + "x"}, *TRAIN[1:4]],
        "order": [TRAIN[1], TRAIN[0], *TRAIN[2:4]],
        "subset": [TRAIN[0] | {"meta": {"pile_set_name": "Other"}}, *TRAIN[1:4]],
        "fewer": TRAIN[:3],
    }
    found = {}
    for name, records in {"again": TRAIN[:4], **variants}.items():
        source = write_jsonl(tmp_path / "one.jsonl", records)
        manifest = prepare(config(sources=(str(source),), out=str(tmp_path / name)))
        found[name] = manifest["splits"]["train"]["fingerprint"]
    assert found.pop("again") == found["same"]
    assert len(set(found.values())) == len(variants)


@pytest.mark.parametrize("max_documents", [1, 7, 40, 1000])
def test_the_first_documents_are_taken_on_request(config, tmp_path, max_documents):
    manifest = prepare(config(max_documents=max_documents))
    data = open_data(tmp_path / "data")
    for name, records in (("train", TRAIN), ("val", VAL)):
        split, n = data.split(name), min(max_documents, len(records))
        assert split.n_bytes.tolist() == [len(r["text"].encode()) for r in records[:n]]
        chosen = manifest["splits"][name]["request"]["documents"]
        assert chosen == f"the first {max_documents}"


@pytest.mark.parametrize("max_documents", [0, -1])
def test_no_documents_at_all_cannot_be_asked_for(config, tmp_path, max_documents):
    with pytest.raises((ConfigError, DataError), match="documents"):
        prepare(config(max_documents=max_documents))
    assert not (tmp_path / "data/manifest.json").exists()


@pytest.mark.parametrize(
    ("content", "left_out"), [("", "none"), ('{"text": ""}\n' * 3, "'empty text': 3")]
)
def test_an_empty_corpus_is_refused_with_what_was_left_out(config, tmp_path, content, left_out):
    (tmp_path / "empty.jsonl").write_text(content)
    with pytest.raises(DataError, match="has no documents") as caught:
        prepare(config(sources=(str(tmp_path / "empty.jsonl"),)))
    assert left_out in caught.value.why
    assert not (tmp_path / "data/manifest.json").exists()


def test_skipped_records_are_counted_with_their_reasons(config, tmp_path):
    """D06, D08."""
    lines = [json.dumps(record) for record in TRAIN[:5]]
    lines[2:2] = ["{", '{"text": 1}', '{"text": 2}', '{"text": ""}', '{"text": "\\ud800"}']
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    sources = (str(tmp_path / "bad.jsonl"),)
    with pytest.raises(DataError, match=r"bad\.jsonl:3:"):
        prepare(config(sources=sources))
    entry = prepare(config(sources=sources, skip_bad=True))["splits"]["train"]
    expected = {"not JSON": 1, "no text": 2, "empty text": 1, "lone surrogate": 1}
    assert entry["skipped"] == expected
    assert entry["n_documents"] == 5


def test_documents_of_val_that_stand_in_train_are_refused_or_counted(config, corpus, tmp_path):
    """D13: an exact copy, the same text under another subset; not a change of white space."""
    planted = [
        TRAIN[3],
        TRAIN[5] | {"meta": {"pile_set_name": "Elsewhere"}},
        TRAIN[6] | {"text": TRAIN[6]["text"] + " "},
    ]
    write_jsonl(corpus / "val.jsonl", VAL + planted)
    with pytest.raises(DataError, match="2 documents of 'val' are in 'train' too"):
        prepare(config())
    assert not (tmp_path / "data/manifest.json").exists()
    manifest = prepare(config(allow_overlap=True))
    assert manifest["overlap"] == {"train_val_exact": 2, "train_val_folded": 3}


def test_overlap_is_found_when_splits_come_one_by_one_in_any_order(config, tmp_path):
    """D13."""
    val = write_jsonl(tmp_path / "v.jsonl", [*VAL, TRAIN[0]])
    train = write_jsonl(tmp_path / "t.jsonl", TRAIN)
    for first, second in (("train", "val"), ("val", "train")):
        out = str(tmp_path / f"{first} first")
        sources = {"train": (str(train),), "val": (str(val),)}
        good = prepare(config(out=out, sources=sources[first], split=first))
        with pytest.raises(DataError, match="1 documents of 'val'"):
            prepare(config(out=out, sources=sources[second], split=second))
        assert open_data(out).manifest == good  # what was there before is there still
        assert open_data(out).split(first).n_documents == good["splits"][first]["n_documents"]


def test_a_clean_validation_set_is_recorded_as_clean(config):
    """D13."""
    assert prepare(config())["overlap"] == {"train_val_exact": 0, "train_val_folded": 0}


def test_a_refusal_because_of_overlap_is_not_forgotten_by_repeating(config, corpus):
    """D13: the second attempt is refused as the first."""
    write_jsonl(corpus / "val.jsonl", [*VAL, TRAIN[0]])
    for _ in range(2):
        with pytest.raises(DataError, match="1 documents of 'val'"):
            prepare(config())
    assert prepare(config(allow_overlap=True))["overlap"] == {
        "train_val_exact": 1,
        "train_val_folded": 1,
    }
    with pytest.raises(DataError, match="1 documents of 'val'"):
        prepare(config())


def test_a_refused_new_version_leaves_the_old_data_whole(config, corpus, tmp_path):
    """D13, D19: what was good yesterday can still be trained on."""
    prepare(config())
    before = content_of(tmp_path / "data")
    write_jsonl(corpus / "val.jsonl", [*VAL, TRAIN[0]])
    with pytest.raises(DataError, match="1 documents of 'val'"):
        prepare(config())
    after = content_of(tmp_path / "data")
    assert {name: after.get(name) for name in before} == before
    assert open_data(tmp_path / "data").split("val").n_documents == len(VAL)


def test_files_of_a_folder_go_to_the_splits_they_are_named_after(config, tmp_path):
    folder = tmp_path / "pile"
    write_jsonl(folder / "train/01.jsonl", TRAIN[:2])
    write_jsonl(folder / "train/00.jsonl", TRAIN[2:4])
    write_jsonl(folder / "val.jsonl", VAL[:1])
    write_jsonl(folder / "test.more.jsonl", VAL[1:3])
    write_jsonl(folder / "other.jsonl", VAL[3:])
    prepare(config(sources=(str(folder),)))
    data = open_data(tmp_path / "data")
    assert {name: data.split(name).n_documents for name in data.split_names} == {
        "train": 4,
        "val": 1,
        "test": 2,
    }
    first = data.split("train").n_bytes.tolist()
    assert first == [len(r["text"].encode()) for r in TRAIN[2:4] + TRAIN[:2]]


def test_another_tokenizer_in_one_folder_is_refused(config, tiny_tokenizer, tmp_path):
    """T17: splits of one folder share their ids."""
    prepare(config(split="train", sources=(str(write_jsonl(tmp_path / "t.jsonl", TRAIN)),)))
    before = content_of(tmp_path / "data")
    fewer = BytePairTokenizer({w: r for w, r in tiny_tokenizer.ranks.items() if r < 300})
    save_tokenizer(tmp_path / "fewer", fewer, {})
    other = PrepareConfig(
        sources=(str(write_jsonl(tmp_path / "v.jsonl", VAL)),),
        tokenizer=str(tmp_path / "fewer"),
        out=str(tmp_path / "data"),
        split="val",
    )
    with pytest.raises(DataError, match="another tokenizer"):
        prepare(other)
    assert content_of(tmp_path / "data") == before


@pytest.mark.parametrize("split", ["../x", "a/b", "", ".", "a b", "x\ny"])
def test_a_split_is_not_named_by_a_path(config, tmp_path, split):
    """D20."""
    with pytest.raises(DataError, match="--split"):
        prepare(config(split=split))
    assert not (tmp_path / "data/manifest.json").exists()


def test_a_second_prepare_into_a_busy_folder_is_refused(config, tmp_path):
    """D19."""
    with FolderLock(tmp_path / "data"), pytest.raises(CheckpointError, match="is in use by pid"):
        prepare(config())
    assert prepare(config())["splits"]


def test_the_tokenizer_travels_with_the_data(config, tmp_path, tiny_tokenizer):
    manifest = prepare(config())
    own = load_tokenizer(open_data(tmp_path / "data").tokenizer_folder)
    assert own.fingerprint == tiny_tokenizer.fingerprint == manifest["tokenizer"]["fingerprint"]
    assert manifest["tokenizer"]["vocab_size"] == tiny_tokenizer.vocab_size


def test_other_standard_input_is_other_data(config, tmp_path, monkeypatch):
    """D16: a stream has no name or size to know it by."""
    for n in (3, 5):
        content = "".join(json.dumps(record) + "\n" for record in TRAIN[:n]).encode()
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)))
        monkeypatch.setattr(sys, "stdin", stdin)
        manifest = prepare(config(sources=("-",)))
        assert manifest["splits"]["train"]["n_documents"] == n


@pytest.mark.parametrize(("n_words", "dtype"), [(65_534, "<u2"), (65_535, "<u4")])
def test_the_dtype_follows_the_vocabulary(tmp_path, n_words, dtype):
    """D12: ids up to 65,535 fit in two bytes, 65,536 does not."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for i in range(n_words - 256):
        ranks[bytes([i % 256, i // 256, 255])] = 256 + i
    save_tokenizer(tmp_path / "large", BytePairTokenizer(ranks), {})
    source = write_jsonl(tmp_path / "a.jsonl", TRAIN[:2])
    request = PrepareConfig(
        sources=(str(source),), tokenizer=str(tmp_path / "large"), out=str(tmp_path / "data")
    )
    assert prepare(request)["dtype"] == dtype
    split = open_data(tmp_path / "data").split("train")
    eos = n_words + 1
    assert split.document(1)[[0, -1]].tolist() == [eos - 1, eos]
    shard = (tmp_path / "data/train-00000.bin").stat().st_size
    assert shard == split.n_tokens * int(dtype[-1])


EVERY_CRASH = """
import os, sys
from pathlib import Path
from ladderlm.prepare.prepare import PrepareConfig, prepare
sources, tokenizer, out = sys.argv[1:]

fsync = os.fsync

def die_at(number):
    n_calls = 0
    def watched(call):
        def counted(*arguments, **options):
            nonlocal n_calls
            n_calls += 1
            if n_calls == number:
                os._exit(9)
            if call is not fsync:  # a process that dies loses nothing that the system holds
                return call(*arguments, **options)
        return counted
    for name in ("fsync", "replace", "unlink", "rmdir", "mkdir"):
        setattr(os, name, watched(getattr(os, name)))

for number in range(1, 1000):
    child = os.fork()  # before any thread has been started
    if child == 0:
        die_at(number)
        prepare(PrepareConfig(
            sources=(sources,), tokenizer=tokenizer, out=f"{out}-{number}", n_workers=1
        ))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 9:
        print(number, status)
        break
"""


@pytest.mark.timeout(120)
@pytest.mark.long
def test_a_crash_at_every_single_file_operation_can_be_recovered_from(
    config, corpus, tmp_path, child_environment, monkeypatch
):
    """D15: death before each fsync, rename, unlink and mkdir of one prepare, one after another."""
    write_jsonl(corpus / "train.jsonl", TRAIN[:6])
    calm = config(out=str(tmp_path / "calm"))
    prepare(calm)
    expected = content_of(tmp_path / "calm")
    crashed = tmp_path / "crashed"
    done = subprocess.run(
        [sys.executable, "-c", EVERY_CRASH, str(corpus), calm.tokenizer, str(crashed)],
        env=child_environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    n_crashes, status = map(int, done.stdout.split())
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    assert status == 0
    assert n_crashes > 30
    for number in range(1, n_crashes):
        out = Path(f"{crashed}-{number}")
        if (out / "manifest.json").exists():
            assert open_data(out).split("train").n_documents == 6
        prepare(config(out=str(out)))
        assert content_of(out) == expected, number


class BoomError(Exception):
    pass


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 8, 13])
def test_a_failure_at_any_file_operation_leaves_nothing_half_done(
    config, tmp_path, monkeypatch, at
):
    """D15: then the same request gives the bytes of one that was never disturbed."""
    prepare(config(out=str(tmp_path / "calm")))
    move = prepare_module.move_into_place
    publish_json = prepare_module.publish_json
    n_calls = 0

    def failing(*arguments):
        nonlocal n_calls
        n_calls += 1
        if n_calls > at:
            raise BoomError
        (move if len(arguments) == 2 and isinstance(arguments[1], Path) else publish_json)(
            *arguments
        )

    monkeypatch.setattr(prepare_module, "move_into_place", failing)
    monkeypatch.setattr(prepare_module, "publish_json", failing)
    try:
        prepare(config())
    except BoomError:
        assert not (tmp_path / "data/manifest.json").exists()
        with pytest.raises(DataError, match="no prepared data"):
            open_data(tmp_path / "data")
    else:
        assert at > 6
    monkeypatch.undo()
    prepare(config())
    assert content_of(tmp_path / "data") == content_of(tmp_path / "calm")


def test_a_prepare_that_is_killed_and_repeated_gives_the_same_bytes(
    config, corpus, tmp_path, child_environment
):
    """D15: kill -9 at random moments, until one attempt comes through."""
    write_jsonl(corpus / "train.jsonl", make_records(3000, seed=6, n_words=100))
    calm = config(out=str(tmp_path / "calm"))
    started = time.monotonic()
    prepare(calm)
    seconds = time.monotonic() - started
    code = """
import sys
from ladderlm.prepare.prepare import PrepareConfig, prepare
print("ready", flush=True)
prepare(PrepareConfig(sources=(sys.argv[1],), tokenizer=sys.argv[2], out=sys.argv[3]))
"""
    disturbed = config()
    command = [sys.executable, "-c", code, disturbed.sources[0], disturbed.tokenizer]
    rng = random.Random(7)
    outcomes = Counter()
    for _ in range(6):
        with subprocess.Popen(
            [*command, disturbed.out], env=child_environment, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, seconds))
            child.send_signal(signal.SIGKILL)
            outcomes[child.wait(60)] += 1
        if (tmp_path / "data/manifest.json").exists():
            open_data(tmp_path / "data").split("train")  # whole, or not there
    assert outcomes[-signal.SIGKILL] >= 1
    prepare(disturbed)
    assert content_of(tmp_path / "data") == content_of(tmp_path / "calm")
