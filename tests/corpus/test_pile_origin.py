"""The head of a file over HTTP, from a folder or the cache: few bytes travel, the result is one."""

import hashlib
import json
import random

import pytest

from builders import make_records
from ladderlm.corpus import head as head_module
from ladderlm.corpus import transfer
from ladderlm.corpus.documents import Reader
from ladderlm.corpus.pile import PileRequest, fetch_pile
from ladderlm.errors import ConfigError, DataError, LadderError
from mirror import Answer, serve

try:
    from compression import zstd
except ImportError:
    from backports import zstd

RECORDS = make_records(6000, seed=3)
LINES = [json.dumps(record).encode() + b"\n" for record in RECORDS]
PLAIN = b"".join(LINES)
rng = random.Random(5)
NOISE = [json.dumps({"text": rng.randbytes(400).hex()}).encode() + b"\n" for _ in range(4000)]
PACKED = zstd.compress(b"".join(NOISE))  # 1.6 MB
SOURCE = "/x/train/00.jsonl.zst"


@pytest.fixture
def mirror(monkeypatch):
    """A server with one training shard; windows and chunks are small."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(head_module, "FIRST_WINDOW_BYTES", 1 << 17)
    monkeypatch.setattr(head_module, "MIN_WINDOW_BYTES", 1 << 15)
    with serve() as running:
        running.files[SOURCE] = PACKED
        yield running


@pytest.fixture
def get(mirror, tmp_path):
    """Take the head of the shard without pauses."""

    def give(out="pile", source=None, **options):
        limits = {"max_documents": 1000, **options.pop("limits", {})}
        source = source or mirror.url + "/x"
        options = {"back_off_seconds": 0.0, **options}
        wanted = PileRequest(split="train", source=source, n_jobs=1, **limits)
        return fetch_pile(tmp_path / out, wanted, **options)

    return give


def files_of(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def head_of(record):
    return record["files"]["train/00.jsonl.zst"]


def test_a_head_is_whole_documents_and_its_entry_says_of_what(get, mirror, tmp_path):
    entry = head_of(get())
    path = tmp_path / "pile/train/00.jsonl.zst"
    assert zstd.decompress(path.read_bytes()) == b"".join(NOISE[:1000])
    last = entry["head"]["source_byte_range"][1]
    assert entry == {
        "source": "127.0.0.1",
        "corpus": None,
        "note": "as named by --source",
        "n_bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "part": "head",
        "limits": {"max_bytes": None, "max_documents": 1000},
        "head": {
            "documents": 1000,
            "text_bytes": 800_000,
            "line_bytes": sum(map(len, NOISE[:1000])),
            "source_byte_range": [0, last],
            "source_range_sha256": hashlib.sha256(PACKED[:last]).hexdigest(),
            "whole_source": False,
            "source_n_bytes": len(PACKED),
            "source_sha256": None,
        },
        "checksum_known_beforehand": False,
    }
    assert sorted(files_of(tmp_path / "pile")) == ["pile.json", "train/00.jsonl.zst"]


def test_little_more_travels_than_is_needed_and_it_is_said(get, mirror):
    said = []
    entry = head_of(get(say=said.append))
    needed = entry["head"]["source_byte_range"][1]
    assert needed < len(PACKED) / 3  # a quarter of the documents, and whole blocks of zstd
    assert needed <= mirror.n_sent <= needed + (1 << 17)
    assert all(last is not None for _, last in mirror.ranges)
    size = f"{len(PACKED) / 1e6:.3g} MB"
    assert said[0] == f"train/00.jsonl.zst: up to 1,000 documents out of {size} from 127.0.0.1"
    assert said[-1].endswith(f"{mirror.n_sent / 1e3:.3g} kB of {size} came over the network")


def test_bytes_of_text_are_counted_not_bytes_of_the_file(get, tmp_path):
    head = head_of(get(limits={"max_documents": None, "max_bytes": 100_000}))["head"]
    assert head["documents"] == 125
    assert head["text_bytes"] == 100_000


@pytest.mark.parametrize(
    "answers",
    [
        [Answer(ignores_range=True)],
        [Answer(ignores_range=True, cut=300_000), Answer(ignores_range=True)],
        [Answer(cut=70_000), Answer(ignores_range=True)],
        [Answer(cut=70_000), Answer(ignores_range=True, cut=20_000), Answer()],
        [Answer(cut=n * 100) for n in range(1, 60)],
        [Answer(cut=50_000, framing="chunked"), Answer(framing="chunked")],
        [Answer(cut=50_000, reset=True)],
        [Answer(status=429, headers={"Retry-After": "0"}), Answer(status=503), Answer(cut=10)],
        [Answer(cut=50_000), Answer(shift=-7), Answer(shift=9)],
        [Answer(cut=50_000), Answer(announces_range=False)],
        [Answer(cut=50_000), Answer(status=416), Answer()],
    ],
)
def test_a_server_that_misbehaves_gives_the_same_head(answers, get, mirror, tmp_path):
    """N01, N03, N04: ignores Range, cuts, 416, 429, 503, other ranges than asked for."""
    first = get("good")
    mirror.script.extend(answers)
    assert get("other") == first
    assert files_of(tmp_path / "other") == files_of(tmp_path / "good")


def test_a_server_that_ignores_range_is_read_no_further_than_needed(get, mirror):
    """N01: one request, ended when there is enough."""
    mirror.always = Answer(ignores_range=True, bytes_a_second=8_000_000)
    get()
    assert len(mirror.asked) == 1


def test_a_length_that_is_not_said_is_refused(get, mirror):
    """N04: `bytes 0-9/*` does not tell where the file ends."""
    mirror.script.append(Answer(headers={"Content-Range": "bytes 0-131071/*"}))
    with pytest.raises(DataError, match="no source has") as caught:
        get()
    assert "does not say how long the file is" in caught.value.why


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=404),
        Answer(status=200, body=b"<html>", headers={"Content-Type": "text/html"}),
        Answer(status=200, body=b"<html>who are you?</html>"),
        Answer(headers={"Content-Encoding": "gzip"}),
    ],
)
def test_what_is_no_file_gives_no_head(answer, get, mirror, tmp_path):
    """N08: 404, a web page, an encoding."""
    mirror.at[SOURCE] = answer
    with pytest.raises(DataError, match="no source has"):
        get()
    assert not (tmp_path / "pile/train/00.jsonl.zst").exists()
    assert not (tmp_path / "pile/pile.json").exists()


def test_what_has_come_is_kept_and_the_rest_is_asked_for(get, mirror, tmp_path):
    """N07: the same command again; the result and its entry are the same bytes."""
    first = get("good")
    n_sent = mirror.n_sent
    mirror.script.append(Answer(cut=100_000))
    mirror.always = Answer(status=503)
    with pytest.raises(DataError):
        get("other")
    mirror.always, mirror.n_sent = Answer(), 0
    assert get("other") == first
    assert files_of(tmp_path / "other") == files_of(tmp_path / "good")
    assert mirror.n_sent <= n_sent - 100_000 + (1 << 15)


def test_a_file_that_changes_at_the_server_meanwhile_is_begun_anew(get, mirror, tmp_path):
    """S1, D16: never a mixture of two versions."""
    other = zstd.compress(b"".join(reversed(NOISE)))

    def swap(name, done, total):
        mirror.files[SOURCE] = other + b"\x50\x2a\x4d\x18\x00\x00\x00\x00"  # an empty frame

    get(progress=swap)
    packed = (tmp_path / "pile/train/00.jsonl.zst").read_bytes()
    assert zstd.decompress(packed) == b"".join(reversed(NOISE[-1000:]))


def test_the_same_head_is_kept_another_one_takes_its_place_and_the_whole_too(get, mirror, tmp_path):
    first = get()
    mirror.asked.clear()
    assert get() == first
    assert mirror.asked == []
    assert head_of(get(limits={"max_documents": 50}))["head"]["documents"] == 50
    assert len(list(Reader([tmp_path / "pile"]))) == 50
    whole = fetch_pile(tmp_path / "pile", PileRequest(split="train", source=mirror.url + "/x"))
    assert head_of(whole)["part"] == "whole"
    assert (tmp_path / "pile/train/00.jsonl.zst").read_bytes() == PACKED
    with pytest.raises(ConfigError, match="is there, whole") as caught:
        get()
    assert "another --out" in caught.value.fix
    assert (tmp_path / "pile/train/00.jsonl.zst").read_bytes() == PACKED


def test_a_damaged_head_is_taken_again(get, tmp_path):
    get()
    path = tmp_path / "pile/train/00.jsonl.zst"
    good = files_of(tmp_path / "pile")
    path.write_bytes(path.read_bytes()[:-1])
    get()
    assert files_of(tmp_path / "pile") == good


def test_a_source_shorter_than_the_limit_is_taken_whole(get, mirror):
    mirror.files[SOURCE] = zstd.compress(b"".join(NOISE[:90]))
    head = head_of(get())["head"]
    assert head["documents"] == 90
    assert head["whole_source"]


@pytest.mark.parametrize("kind", ["url", "folder"])
def test_plain_lines_give_a_packed_head(kind, get, mirror, tmp_path):
    del mirror.files[SOURCE]
    mirror.files["/x/train/00.jsonl"] = PLAIN
    (tmp_path / "disk/train").mkdir(parents=True)
    (tmp_path / "disk/train/00.jsonl").write_bytes(PLAIN)
    source = None if kind == "url" else str(tmp_path / "disk")
    head = head_of(get(source=source))["head"]
    assert head["documents"] == 1000
    texts = [document.text for document in Reader([tmp_path / "pile/train/00.jsonl.zst"])]
    assert texts == [record["text"] for record in RECORDS[:1000]]
    assert head["source_n_bytes"] == len(PLAIN)


def test_a_folder_gives_the_same_bytes_as_a_server(get, mirror, tmp_path):
    (tmp_path / "disk/train").mkdir(parents=True)
    (tmp_path / "disk/train/00.jsonl.zst").write_bytes(PACKED)
    mirror.asked.clear()
    here = head_of(get("here", source=str(tmp_path / "disk")))
    assert mirror.asked == []
    there = head_of(get("there"))
    assert here["sha256"] == there["sha256"]
    assert here["head"] == there["head"]


def test_a_head_names_the_hash_of_the_whole_if_it_is_known(get, mirror):
    digest = hashlib.sha256(PACKED).hexdigest()
    mirror.files["/x/SHA256SUMS.txt"] = f"{digest}  train/00.jsonl.zst\n".encode()
    entry = head_of(get())
    assert entry["head"]["source_sha256"] == digest
    assert entry["checksum_known_beforehand"] is False  # the head alone cannot be held against it


def test_a_truncated_source_is_never_taken_for_its_end(get, mirror):
    """D02: also when only the last byte is missing."""
    for length in (100_000, len(PACKED) - 4, len(PACKED) - 1):
        mirror.files[SOURCE] = PACKED[:length]
        with pytest.raises(DataError, match="no source has") as caught:
            get(limits={"max_documents": 10**6})
        assert "middle of a frame" in caught.value.why


def test_a_disk_too_small_for_the_head_is_refused_before_a_byte(get, mirror, monkeypatch):
    class Status:
        f_bavail, f_frsize = 1000, 1

    monkeypatch.setattr("ladderlm.files.os.statvfs", lambda path: Status)
    with pytest.raises(LadderError, match="are free"):
        get()
    assert mirror.asked == []
