"""Parts of a prepare: any number of them, made anywhere in any order, return the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders import content_of, make_records, write_jsonl
from ladderlm.errors import ConfigError, DataError, ExecutorError
from ladderlm.files import publish, publish_json
from ladderlm.prepare import prepare as prepare_module
from ladderlm.prepare import request as request_module
from ladderlm.prepare.encoded_piece import read_piece
from ladderlm.prepare.encoding import find_pieces, share_files
from ladderlm.prepare.estimate import SampleJob, take_samples
from ladderlm.prepare.prepare import PrepareConfig, merge_parts, prepare, prepare_part
from ladderlm.prepare.request import request_splits
from ladderlm.prepare.workers import encode_parts, sample_elsewhere, started_workers

TRAIN, VAL = make_records(40, seed=1), make_records(8, seed=2)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Cut even a tiny corpus into many pieces."""
    monkeypatch.setattr(request_module, "BLOCK_BYTES", 300)
    monkeypatch.setattr(request_module, "PIECE_BLOCKS", 2)
    monkeypatch.setattr(prepare_module, "SMALL_BYTES", 0)


@pytest.fixture
def config(tiny_tokenizer_folder, tmp_path):
    """Return a builder of requests on a corpus of two training files and a validation file."""
    write_jsonl(tmp_path / "corpus/train/0.jsonl", TRAIN[:25])
    write_jsonl(tmp_path / "corpus/train/1.jsonl", TRAIN[25:])
    write_jsonl(tmp_path / "corpus/val.jsonl", VAL)

    def build(**fields):
        fields = {"sources": (str(tmp_path / "corpus"),), "n_workers": 1} | fields
        fields = {"out": str(tmp_path / "data")} | fields
        return PrepareConfig(tokenizer=str(tiny_tokenizer_folder), **fields)

    return build


def parts_in(config, n_parts, out, order=None, **fields):
    folders = [out / f"p{part}" for part in range(1, n_parts + 1)]
    for part in order or range(1, n_parts + 1):
        prepare_part(config(out=str(folders[part - 1]), **fields), part, n_parts)
    return folders


@pytest.mark.parametrize("n_parts", [1, 3, 20])
def test_parts_in_any_order_merge_to_the_bytes_of_one_prepare(config, tmp_path, n_parts):
    """Contract, section 4: same bytes for any number of parts, also more than there are pieces."""
    options = {"near_duplicates": True, "dedup": "exact"}
    prepare(config(**options))
    order = list(range(n_parts, 0, -1))
    folders = parts_in(config, n_parts, tmp_path, order, **options)
    manifest = merge_parts(folders[::-1], tmp_path / "merged")
    assert content_of(tmp_path / "merged") == content_of(tmp_path / "data")
    assert merge_parts(folders, tmp_path / "merged") == manifest  # a second time: nothing to do


@pytest.mark.parametrize("limit", ["max_documents", "max_tokens", "max_bytes"])
def test_parts_that_stop_at_a_limit_still_make_the_whole(config, tmp_path, limit):
    """A part encodes no more than the limit asks of all, and never too little."""
    options = {limit: {"max_documents": 11, "max_tokens": 500, "max_bytes": 1500}[limit]}
    prepare(config(**options))
    folders = parts_in(config, 3, tmp_path, **options)
    merge_parts(folders, tmp_path / "merged")
    assert content_of(tmp_path / "merged") == content_of(tmp_path / "data")
    n_made = len(list(tmp_path.glob("p*/train-*/*.piece")))
    whole = parts_in(config, 3, tmp_path / "whole")
    n_all = sum(len(list(folder.glob("train-*/*.piece"))) for folder in whole)
    assert n_made < n_all


def test_a_part_may_use_several_workers(config, tmp_path):
    prepare(config())
    folders = parts_in(config, 2, tmp_path, n_workers=2)
    merge_parts(folders, tmp_path / "merged")
    assert content_of(tmp_path / "merged") == content_of(tmp_path / "data")


def test_parts_may_share_a_folder_one_after_another(config, tmp_path):
    prepare(config())
    for part in (2, 1):
        prepare_part(config(out=str(tmp_path / "all")), part, 2)
    merge_parts([tmp_path / "all"], tmp_path / "merged")
    assert content_of(tmp_path / "merged") == content_of(tmp_path / "data")


def test_a_missing_part_is_named(config, tmp_path):
    folders = parts_in(config, 3, tmp_path)
    with pytest.raises(DataError, match="part 2 of 3 is in none of the folders") as caught:
        merge_parts([folders[0], folders[2]], tmp_path / "merged")
    assert "--part 2/3" in caught.value.fix
    assert not (tmp_path / "merged/manifest.json").exists()


def test_an_unfinished_part_is_refused(config, tmp_path):
    folders = parts_in(config, 2, tmp_path)
    (folders[1] / "part-2-of-2.json").unlink()
    with pytest.raises(DataError, match="holds no finished part"):
        merge_parts(folders, tmp_path / "merged")


def test_a_lost_piece_is_refused_and_made_again_by_the_same_command(config, tmp_path):
    prepare(config())
    folders = parts_in(config, 2, tmp_path)
    next(folders[1].glob("train-*/*.piece")).unlink()
    with pytest.raises(DataError, match="is in none of the parts"):
        merge_parts(folders, tmp_path / "merged")
    prepare_part(config(out=str(folders[1])), 2, 2)
    merge_parts(folders, tmp_path / "merged")
    assert content_of(tmp_path / "merged") == content_of(tmp_path / "data")


def test_any_damage_to_a_piece_is_seen(config, tmp_path):
    """D16: parts travel between machines."""
    folders = parts_in(config, 1, tmp_path)
    path = next(folders[0].glob("train-*/*.piece"))
    whole = path.read_bytes()
    for at in range(0, len(whole), max(len(whole) // 60, 1)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError, match=r"\.piece cannot be used"):
            read_piece(path)
        path.write_bytes(whole[:at])
        with pytest.raises(DataError, match=r"\.piece cannot be used"):
            read_piece(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(DataError, match=r"\.piece cannot be used"):
        read_piece(path)


@pytest.mark.parametrize("change", ["options", "source", "n_parts"])
def test_parts_of_different_requests_are_not_mixed(config, tmp_path, change):
    prepare_part(config(out=str(tmp_path / "p1")), 1, 2)
    options = {"skip_bad": True} if change == "options" else {}
    if change == "source":
        write_jsonl(tmp_path / "corpus/val.jsonl", VAL[:-1])
    prepare_part(config(out=str(tmp_path / "p2"), **options), 2, 3 if change == "n_parts" else 2)
    with pytest.raises(DataError, match="different requests"):
        merge_parts([tmp_path / "p1", tmp_path / "p2"], tmp_path / "merged")


@pytest.mark.parametrize(("part", "n_parts"), [(0, 2), (3, 2), (1, 0)])
def test_a_part_counts_from_one(config, part, n_parts):
    with pytest.raises(ConfigError, match="--part"):
        prepare_part(config(), part, n_parts)


def test_standard_input_has_no_parts(config):
    with pytest.raises(DataError, match="standard input"):
        prepare_part(config(sources=("-",)), 1, 2)


def test_a_part_does_not_go_into_prepared_data(config):
    prepare(config())
    with pytest.raises(DataError, match="holds prepared data"):
        prepare_part(config(), 1, 2)


def test_pieces_that_are_there_are_not_made_again(config, tmp_path):
    """D15: what a killed part had made is used."""
    folders = parts_in(config, 1, tmp_path)
    pieces = sorted(folders[0].glob("*/*.piece"))
    before = {path: path.stat().st_ino for path in pieces}
    pieces[3].unlink()
    prepare_part(config(out=str(folders[0])), 1, 1)
    same = {path for path in pieces if path.stat().st_ino == before[path]}
    assert set(pieces) - same <= {pieces[3]}
    assert pieces[3].exists()


def test_an_error_in_one_worker_ends_all_and_names_the_line(config, tmp_path):
    with open(tmp_path / "corpus/train/1.jsonl", "a") as stream:
        stream.write("nope\n")
    with pytest.raises(DataError, match=r"1\.jsonl:16:1: not valid JSON") as caught:
        prepare(config(n_workers=3))
    assert "--skip-bad" in caught.value.fix
    assert not (tmp_path / "data/manifest.json").exists()


def test_a_worker_that_dies_is_an_error(config, tmp_path, monkeypatch):
    """X03: for example of memory."""
    requests = request_splits(config(), None)
    jobs = requests["train"].jobs(tmp_path / "pieces", 0, 1, 2)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(9)\n")
    with started_workers(2) as processes:
        processes[1].wait()  # dead before it is told anything
        with pytest.raises(ExecutorError, match="ended with code 9"):
            encode_parts([(process, [job]) for process, job in zip(processes, jobs, strict=True)])


def test_workers_end_with_the_one_who_started_them(config, tmp_path, child_environment):
    """D15: kill -9 leaves no orphan that writes on."""
    write_jsonl(tmp_path / "corpus/train/0.jsonl", make_records(20_000, seed=3, n_words=200))
    code = """
import sys
from ladderlm.prepare import prepare as module
from ladderlm.prepare.prepare import PrepareConfig, prepare
module.SMALL_BYTES = 0
prepare(PrepareConfig(sources=(sys.argv[1],), tokenizer=sys.argv[2], out=sys.argv[3], n_workers=2))
"""
    own = config()
    command = [sys.executable, "-c", code, own.sources[0], own.tokenizer, own.out]
    marker = {"LADDERLM_TEST_MARK": str(tmp_path)}
    with subprocess.Popen(command, env=child_environment | marker) as child:
        deadline = time.monotonic() + 60
        while len(workers_of(tmp_path)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(workers_of(tmp_path)) == 3
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while workers_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert workers_of(tmp_path) == []


def workers_of(tmp_path):
    """Return the processes that carry the mark of this test."""
    mark = f"LADDERLM_TEST_MARK={tmp_path}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_pieces_are_found_in_the_order_of_the_documents(config, tmp_path):
    folders = parts_in(config, 2, tmp_path)
    records = [json.loads(p.read_text()) for f in folders for p in f.glob("part-*.json")]
    name = records[0]["splits"]["train"]["folder"]
    places = [folder / name for folder in folders]
    sizes = [
        size for _, path in find_pieces(places, 2) for size in read_piece(path).n_bytes.tolist()
    ]
    assert sizes == [len(record["text"].encode()) for record in TRAIN]


def test_files_are_shared_whole_where_that_is_even():
    assert share_files([5] * 8, 2) == [0, 1] * 4
    assert share_files([5, 5, 5], 2) == [0, 1, None]  # the third by its pieces
    assert share_files([900, 1, 1, 1], 2) == [None, 0, 1, 0]
    owners = share_files([14] * 30, 8)
    assert [owners.count(worker) for worker in range(8)] == [3] * 8
    assert owners.count(None) == 6
    assert share_files([], 3) == []


@pytest.mark.parametrize(("n_parts", "workers"), [(1, (3,)), (2, (1, 4)), (3, (2, 1, 5))])
def test_every_piece_is_made_by_exactly_one_worker(config, tmp_path, n_parts, workers):
    """Parts may run with any number of workers each."""
    for i, n in enumerate([1, 40, 7, 7, 7, 300]):
        write_jsonl(tmp_path / f"corpus/train/{i}.jsonl", make_records(n, seed=i))
    request = request_splits(config(), None)["train"]
    jobs = [
        job
        for part, n_workers in enumerate(workers)
        for job in request.jobs(tmp_path, part, n_parts, n_workers)
    ]
    for file in range(len(request.files)):
        for index in range(60):
            turns = [job.turns[file] for job in jobs]
            assert sum((file + index) % n == r for n, r in turns if n) == 1


def test_a_piece_that_is_still_made_is_waited_for_and_one_that_is_not_is_an_error(tmp_path):
    publish(tmp_path / "00000-000000.piece", lambda stream: stream.write(b"any"))
    asked = []

    def still_made():
        asked.append(len(list(tmp_path.glob("*.piece"))))
        if len(asked) == 4:  # the second piece and the end of the file come late
            publish(tmp_path / "00000-000001.piece", lambda stream: stream.write(b"any"))
            publish_json(tmp_path / "00000.json", {"n_pieces": 2})
        return len(asked) < 7

    pieces = find_pieces([tmp_path], 2, still_made)
    names = [(file, path.name) for file, path in (next(pieces), next(pieces))]
    assert names == [(0, "00000-000000.piece"), (0, "00000-000001.piece")]
    assert asked == [1, 1, 1, 1]
    with pytest.raises(DataError, match="piece 0 of source file 1 is in none"):
        next(pieces)
    assert len(asked) == 7


def test_workers_take_the_samples_that_one_process_takes(config, tiny_tokenizer):
    jobs = [
        SampleJob(
            file=file,
            tokenizer=request.config.tokenizer,
            near=False,
            text_key="text",
            subset_key="meta.pile_set_name",
        )
        for request in request_splits(config(), None).values()
        for file in request.files
    ]
    alone = take_samples(jobs, tiny_tokenizer)
    with started_workers(2) as processes:
        together = sample_elsewhere(processes, jobs)
    assert [sums[:3] + sums[4:] for sums in together] == [sums[:3] + sums[4:] for sums in alone]
    assert sum(sums[0] for sums in together) == len(TRAIN) + len(VAL)
    with started_workers(1) as processes:
        processes[0].kill()
        with pytest.raises(ExecutorError, match="ended with code -9"):
            sample_elsewhere(processes, jobs)
