"""`prepare` under bad luck: damage, cuts, kills, two at once, hostile names, more than memory."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders import content_of, make_records, write_jsonl
from ladderlm.data.shards import open_data
from ladderlm.errors import DataError, LadderError
from ladderlm.files import publish_json
from ladderlm.prepare import prepare as prepare_module
from ladderlm.prepare import request as request_module
from ladderlm.prepare.prepare import PrepareConfig, prepare

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TRAIN, VAL = make_records(40, seed=1), make_records(8, seed=2)


@pytest.fixture
def config(tiny_tokenizer_folder, tmp_path):
    """Return a builder of requests on a corpus of train and val."""
    write_jsonl(tmp_path / "corpus/train.jsonl", TRAIN)
    write_jsonl(tmp_path / "corpus/val.jsonl", VAL)

    def build(**fields):
        fields = {"sources": (str(tmp_path / "corpus"),), "n_workers": 1} | fields
        fields = {"out": str(tmp_path / "data")} | fields
        return PrepareConfig(tokenizer=str(tiny_tokenizer_folder), **fields)

    return build


def test_a_reader_keeps_its_version_while_another_is_prepared(config, tmp_path):
    """D19: what a run has open stays; the next call after it has ended cleans up."""
    prepare(config())
    reader = open_data(tmp_path / "data").split("train")
    before = [reader.document(i).tolist() for i in range(reader.n_documents)]
    old_files = {path for path, _, _ in reader.shards}
    write_jsonl(tmp_path / "corpus/train.jsonl", TRAIN[5:30])
    prepare(config())
    assert [reader.document(i).tolist() for i in range(reader.n_documents)] == before
    newer = open_data(tmp_path / "data").split("train")
    assert newer.n_documents == 25
    assert not old_files & {path for path, _, _ in newer.shards}
    assert all(path.exists() for path in old_files)
    del reader, newer
    prepare(config())
    assert not any(path.exists() for path in old_files)
    assert open_data(tmp_path / "data").split("train").n_documents == 25


def test_versions_follow_each_other_without_end(config, tmp_path):
    """D19: names are used again once nobody reads them."""
    for n in (10, 20, 30, 12):
        write_jsonl(tmp_path / "corpus/train.jsonl", TRAIN[:n])
        prepare(config())
        assert open_data(tmp_path / "data").split("train").n_documents == n
    names = {path.name for path in (tmp_path / "data").glob("train*")}
    assert len(names) == 4


def test_a_change_between_two_attempts_is_not_mixed_with_what_the_first_had_made(config, tmp_path):
    """D15, D16: pieces belong to the content they were made of."""
    source = tmp_path / "corpus/train.jsonl"
    write_jsonl(source, [*TRAIN, {"text": 5}])
    with pytest.raises(DataError, match="not a string"):
        prepare(config())
    write_jsonl(source, TRAIN[::-1])
    prepare(config())
    prepare(config(out=str(tmp_path / "calm")))
    assert content_of(tmp_path / "data") == content_of(tmp_path / "calm")


def test_a_source_replaced_by_one_of_equal_size_is_seen(config, tmp_path):
    """D16: same name, same size, other content, while it is read."""
    source = tmp_path / "corpus/train.jsonl"
    whole = source.read_bytes()

    def progress(split, n_documents):
        (tmp_path / "other").write_bytes(whole[:-9][::-1] + whole[-9:])
        os.replace(tmp_path / "other", source)

    with pytest.raises(DataError, match=r"train\.jsonl changed while it was read"):
        prepare(config(), progress)
    assert not list((tmp_path / "data").rglob("*.piece"))


@pytest.mark.parametrize(
    "name", ["a\nb.jsonl", "..jsonl", " .jsonl", "\x1b[2Jx.jsonl", "é'\".jsonl"]
)
def test_a_hostile_file_name_stays_a_name(config, tmp_path, name):
    """D20."""
    folder = tmp_path / "odd"
    write_jsonl(folder / name, TRAIN[:3])
    before = content_of(tmp_path / "corpus")
    prepare(config(sources=(str(folder),)))
    entry = open_data(tmp_path / "data").manifest["splits"]["train"]
    assert entry["request"]["sources"][0]["name"] == name
    assert content_of(tmp_path / "corpus") == before
    assert {p.name for p in tmp_path.iterdir()} == {"odd", "corpus", "data"}


@pytest.mark.parametrize("place", ["shards", "index", "text_hashes"])
@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "x\0y", ""])
def test_a_manifest_that_names_files_elsewhere_is_refused(config, tmp_path, place, name):
    """D20: even with a fingerprint that fits."""
    prepare(config())
    path = tmp_path / "data/manifest.json"
    manifest = json.loads(path.read_text())
    entry = manifest["splits"]["train"]
    file = {
        "shards": entry["shards"][0],
        "index": entry["index"],
        "text_hashes": entry["text_hashes"]["exact"],
    }[place]
    file["file"] = name
    manifest["fingerprint"] = prepare_module.manifest_fingerprint(manifest)
    publish_json(path, manifest)
    data = open_data(tmp_path / "data")
    with pytest.raises(DataError, match="damaged"):
        data.check_files("train")
    if place != "text_hashes":
        with pytest.raises(DataError, match="damaged"):
            data.split("train")


def test_a_shard_that_is_a_link_is_not_followed(config, tmp_path):
    """D20."""
    prepare(config())
    shard = tmp_path / "data/train-00000.bin"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="not a regular file"):
        open_data(tmp_path / "data").split("train")


def test_a_pipe_or_device_is_no_source(config, tmp_path):
    """D05, D20: it can be read only once."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    for source in (tmp_path / "pipe.jsonl", Path("/dev/zero")):
        with pytest.raises(DataError, match="is a pipe or a device"):
            prepare(config(sources=(str(source),)))


def mutations(folder, n, seed):
    """Return n seeded ways to damage a file of a folder: (name, damaged bytes)."""
    rng = random.Random(seed)
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != ".lock")
    for _ in range(n):
        name = rng.choice(names)
        raw = bytearray((folder / name).read_bytes())
        at = rng.randrange(len(raw))
        kind = rng.randrange(6)
        if kind == 0:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            raw[at] = (raw[at] + rng.randrange(1, 256)) % 256
        elif kind == 2:
            del raw[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            raw[at:at] = rng.randbytes(rng.randrange(1, 64))
        elif kind == 4:
            del raw[at:]
        else:
            other = rng.randrange(len(raw))
            raw[at], raw[other] = raw[other], raw[at]
        if not same_meaning(bytes(raw), (folder / name).read_bytes()):
            yield name, bytes(raw)


def same_meaning(damaged, whole):
    """Return whether nothing that is read has changed: no byte, or only white space of the JSON."""
    try:
        return json.loads(damaged) == json.loads(whole)
    except ValueError:
        return damaged == whole


def check_everything(folder):
    data = open_data(folder)
    for split in data.split_names:
        data.split(split)
        data.check_files(split)


def refuse_mutations(folder, n, seed):
    """Damage one file after another; return how many were tried."""
    whole = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    n_tried = 0
    for name, damaged in mutations(folder, n, seed):
        (folder / name).write_bytes(damaged)
        with pytest.raises(DataError):
            check_everything(folder)
        (folder / name).write_bytes(whole[name])
        n_tried += 1
    data = open_data(folder)
    assert all(data.split(name).n_documents for name in data.split_names)
    return n_tried


def test_no_mutation_of_shards_index_or_manifest_is_accepted(config, tmp_path):
    """Figures to reach: mutated shard, manifest, index."""
    prepare(config())
    assert refuse_mutations(tmp_path / "data", 120, seed=3) > 100


@pytest.mark.slow
def test_no_mutation_of_a_thousand_is_accepted(config, tmp_path):
    """Figures to reach: 1,000 of them."""
    prepare(config())
    assert refuse_mutations(tmp_path / "data", 1040, seed=4) >= 1000


@pytest.mark.parametrize("n_cuts", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_no_cut_of_a_zstd_source_is_silent(config, tmp_path, n_cuts):
    """D02. A cut on a frame border is a whole file: what it holds is recorded."""
    lines = [json.dumps(record).encode() + b"\n" for record in TRAIN]
    frames = [zstd.compress(b"".join(lines[i : i + 8])) for i in range(0, 40, 8)]
    whole = b"".join(frames)
    borders = {sum(map(len, frames[:i])): 8 * i for i in range(1, len(frames) + 1)}
    cuts = {round(len(whole) * i / n_cuts) for i in range(n_cuts)} | set(borders)
    source = tmp_path / "cut.jsonl.zst"
    n_refused = 0
    for cut in sorted(cuts):
        source.write_bytes(whole[:cut])
        request = config(sources=(str(source),), out=str(tmp_path / f"out-{cut}"))
        if cut not in borders:
            with pytest.raises(DataError, match=r"cut\.jsonl\.zst"):
                prepare(request)
            assert not (tmp_path / f"out-{cut}/manifest.json").exists()
            n_refused += 1
            shutil.rmtree(tmp_path / f"out-{cut}")
            continue
        entry = prepare(request)["splits"]["train"]
        own = TRAIN[: borders[cut]]
        n_bytes = sum(len(record["text"].encode()) for record in own)
        assert entry["taken"] == [{"n_documents": len(own), "n_bytes": n_bytes}]
        sha256 = hashlib.sha256(whole[:cut]).hexdigest()
        stated = {"name": "cut.jsonl.zst", "n_bytes": cut, "sha256": sha256}
        assert entry["request"]["sources"] == [stated]
    assert n_refused >= 0.8 * n_cuts


def test_a_full_disk_is_named_and_leaves_no_half_data(config, tmp_path, monkeypatch):
    """D15: refused before the work begins."""
    monkeypatch.setattr(
        os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 9, 1, 1, 9, 9, 9, 0, 255))
    )
    with pytest.raises(LadderError, match="are free"):
        prepare(config())
    assert not (tmp_path / "data/manifest.json").exists()
    assert not list((tmp_path / "data").rglob("*.piece"))


PEAK = """
import resource, sys
from ladderlm.prepare import assemble
from ladderlm.prepare import dedup
from ladderlm.prepare import request
from ladderlm.prepare.prepare import PrepareConfig, prepare
from ladderlm.data.shards import open_data
request.BLOCK_BYTES, request.PIECE_BLOCKS = 1 << 20, 2
dedup.KeyTable.__init__.__defaults__ = (1 << 12,)
assemble.SplitWriter.__init__.__defaults__ = (1 << 20,)
prepare(PrepareConfig(sources=(sys.argv[1],), tokenizer=sys.argv[2], out=sys.argv[3], n_workers=1,
                      dedup="exact", near_duplicates=True))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_stream(path, n_documents):
    """Write short distinct documents, one in fifty a copy, with a frame every few thousand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        for start in range(0, n_documents, 5000):
            numbers = (
                i if i % 50 else i // 2 for i in range(start, min(start + 5000, n_documents))
            )
            lines = [
                b'{"text": "%s document %d and its %d words"}\n' % (path.name.encode(), i, 7 * i)
                for i in numbers
            ]
            stream.write(zstd.compress(b"".join(lines), level=1))


def peak_bytes(folder, n_documents, tokenizer, environment):
    write_stream(folder / "corpus/train.jsonl.zst", n_documents)
    write_stream(folder / "corpus/val.jsonl.zst", n_documents // 10)
    command = [
        sys.executable,
        "-c",
        PEAK,
        str(folder / "corpus"),
        str(tokenizer),
        str(folder / "d"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.rmtree(folder)
    return int(done.stdout) * 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_times_the_input_takes_no_more_memory(
    tmp_path, tiny_tokenizer_folder, child_environment
):
    """D09: with removal of duplicates, near duplicates and overlap counting on."""
    small = peak_bytes(tmp_path / "1", 100_000, tiny_tokenizer_folder, child_environment)
    large = peak_bytes(tmp_path / "8", 800_000, tiny_tokenizer_folder, child_environment)
    print(f"peak {small / 1e6:.0f} MB, at 8 times the input {large / 1e6:.0f} MB")
    assert large <= 1.1 * small


KILLED = """
import sys
from ladderlm.prepare import prepare as module
from ladderlm.prepare import request
from ladderlm.prepare.prepare import PrepareConfig, prepare
module.SMALL_BYTES, request.BLOCK_BYTES, request.PIECE_BLOCKS = 0, 100_000, 2
print("ready", flush=True)
prepare(PrepareConfig(sources=(sys.argv[1],), tokenizer=sys.argv[2], out=sys.argv[3],
                      n_workers=int(sys.argv[4]), dedup="exact"))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_kills_at_random_moments_leave_the_same_bytes(
    config, tmp_path, child_environment, monkeypatch
):
    """D15, figures to reach: kill -9, with one to three workers, until it comes through."""
    write_jsonl(tmp_path / "corpus/train.jsonl", make_records(6000, seed=6, n_words=100))
    for name, value in (("BLOCK_BYTES", 100_000), ("PIECE_BLOCKS", 2)):
        monkeypatch.setattr(request_module, name, value)
    started = time.monotonic()
    calm = config(out=str(tmp_path / "calm"), dedup="exact")
    prepare(calm)
    seconds = time.monotonic() - started
    expected = content_of(tmp_path / "calm")
    rng = random.Random(8)
    n_kills = n_rounds = 0
    while n_kills < 50:
        out = tmp_path / f"round-{n_rounds}"
        n_rounds += 1
        for _ in range(5):
            command = [sys.executable, "-c", KILLED, calm.sources[0], calm.tokenizer, str(out)]
            with subprocess.Popen(
                [*command, str(rng.randrange(1, 4))], env=child_environment, stdout=subprocess.PIPE
            ) as child:
                assert child.stdout.readline() == b"ready\n"
                time.sleep(rng.uniform(0, 1.5 * seconds))
                child.send_signal(signal.SIGKILL)
            n_kills += child.returncode == -signal.SIGKILL
            if (out / "manifest.json").exists():
                open_data(out).split("train")  # whole, or not there
        prepare(config(out=str(out), dedup="exact"))
        assert content_of(out) == expected
        shutil.rmtree(out)
    print(f"{n_kills} kills in {n_rounds} rounds")
