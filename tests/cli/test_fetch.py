"""`ladderlm fetch`: options of both corpora; what is fetched is tested beside its module."""

import hashlib
import json

import pytest

from builders import make_records
from ladderlm.cli import fetch
from ladderlm.corpus.documents import Reader
from ladderlm.corpus.local import fetch_local
from ladderlm.corpus.pile_sources import PUBLISHED
from mirror import Answer, serve

try:
    from compression import zstd
except ImportError:
    from backports import zstd

REPOSITORY = "/datasets/mit-han-lab/pile-val-backup/resolve/main"
RECORDS = make_records(400, seed=6)
VALIDATION = zstd.compress("".join(json.dumps(r) + "\n" for r in RECORDS).encode())


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine that holds one validation file."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setitem(PUBLISHED, "val.jsonl.zst", hashlib.sha256(VALIDATION).hexdigest())
    with serve() as running:
        running.files[f"{REPOSITORY}/val.jsonl.zst"] = VALIDATION
        running.files["/own/train/00.jsonl.zst"] = zstd.compress(b"{}\n")
        running.files["/own/train/02.jsonl.zst"] = zstd.compress(b"{}\n{}\n")
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_the_validation_file_of_the_pile_is_fetched_and_described(hub, ladderlm, tmp_path):
    said = ladderlm("fetch", "pile", "--out", tmp_path / "pile")
    assert said.code == 0, said.err
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == VALIDATION
    size = f"{len(VALIDATION) / 1000:.3g} kB"
    assert f"val.jsonl.zst: {size} from mit-han-lab/pile-val-backup" in said.err
    assert f"{size} of {size} came over the network" in said.err
    assert f"{tmp_path}/pile/val.jsonl.zst: {size} from mit-han-lab/pile-val-backup" in said.out
    assert hashlib.sha256(VALIDATION).hexdigest() in said.out
    assert "as in the published hash of the original file" in said.out
    again = ladderlm("fetch", "pile", "--out", tmp_path / "pile", "--json")
    assert again.json == json.loads((tmp_path / "pile/pile.json").read_text())
    assert len(hub.asked) == 1


def test_shards_and_sources_are_named(hub, ladderlm, tmp_path):
    words = ["--split", "train", "--shards", "0,2", "--source", f"{hub.url}/own", "--jobs", 2]
    said = ladderlm("fetch", "pile", "--out", tmp_path, *words)
    assert said.code == 0, said.err
    assert (tmp_path / "train/02.jsonl.zst").read_bytes() == zstd.compress(b"{}\n{}\n")
    assert "recorded, no list to check it against" in said.out


@pytest.mark.parametrize(
    ("words", "n_documents"),
    [(["--max-documents", 25], 25), (["--max-bytes", "9kB"], None)],
)
def test_a_head_is_described_with_what_it_is_a_head_of(words, n_documents, hub, ladderlm, tmp_path):
    said = ladderlm("fetch", "pile", "--out", tmp_path / "pile", *words)
    assert said.code == 0, said.err
    texts = [document.text for document in Reader([tmp_path / "pile/val.jsonl.zst"])]
    assert texts == [r["text"] for r in RECORDS[: len(texts)]]
    if n_documents is None:
        sizes = [len(r["text"].encode()) for r in RECORDS]
        assert sum(sizes[: len(texts)]) <= 9000 < sum(sizes[: len(texts) + 1])
    else:
        assert len(texts) == n_documents
    assert f"the first {len(texts)} documents: " in said.out
    assert f" of {len(VALIDATION) / 1000:.3g} kB" in said.out
    again = ladderlm("fetch", "pile", "--out", tmp_path / "pile", *words, "--json")
    assert again.json["files"]["val.jsonl.zst"]["head"]["documents"] == len(texts)
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pile", "--split", "dev"], "one of train, val, test"),
        (["pile", "--split", "train", "--shards", "a,b"], "write 0 or 0,1,2"),
        (["pile", "--split", "train", "--shards", ""], "write 0 or 0,1,2"),
        (["pile", "--split", "train", "--shards", "30"], "between 0 and 29"),
        (["pile", "--source", "pile-val-bakup"], "use --source pile-val-backup"),
        (["pile", "--source", "./nowhere"], "name a URL"),
        (
            ["pile", "--max-bytes", "much"],
            "a size must be a number with an optional unit, got 'much'",
        ),
        (["pile", "--max-bytes", "0"], "--max-bytes must be at least 1"),
        (["pile", "--max-documents", "-3"], "--max-documents must be at least 1"),
        (["pile", "--jobs", "0"], "--jobs must be at least 1"),
        (["local", "--max-documents", "3"], "--max-documents"),
        (["pile", "--shard", "3"], "--shards"),
    ],
)
def test_wrong_wishes_are_refused_before_anything_is_made(words, says, hub, ladderlm, tmp_path):
    said = ladderlm("fetch", *words, "--out", tmp_path / "out")
    assert said.code == 2
    assert says in said.words
    assert not (tmp_path / "out").exists()
    assert hub.asked == []


def test_a_mirror_that_is_gone_is_explained_with_the_way_by_hand(hub, ladderlm, tmp_path):
    """N08."""
    hub.always = Answer(status=410)
    said = ladderlm("fetch", "pile", "--out", tmp_path / "pile")
    assert said.code == 2
    assert "the server answers 410" in said.err
    assert f"put it at {tmp_path}/pile/val.jsonl.zst" in said.err


@pytest.fixture
def small_machine(monkeypatch, tmp_path):
    """A machine on which one small package is installed."""
    site = tmp_path / "site"
    info = site / "tiny-1.0.dist-info"
    info.mkdir(parents=True)
    files = {f"tiny/part{i}.py": f'"""Part {i}."""\n' + f"x = {i}\n" * 40 for i in range(30)}
    for name, text in files.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    expected = {
        name: {"version": "1.0", "group": "Code", "digests": []} for name in ("tiny", "lost")
    }
    monkeypatch.setattr(fetch, "fetch_local", lambda out: fetch_local(out, expected, [str(site)]))


def test_the_local_corpus_is_described_with_what_is_missing(small_machine, ladderlm, tmp_path):
    said = ladderlm("fetch", "local", "--out", tmp_path / "local")
    assert said.code == 0, said.err
    assert "note: package lost: missing" in said.out
    assert "note: package tiny: content differs" in said.out
    assert "note: less than the usual 60 MB" in said.out
    assert "train:" in said.out
    found = ladderlm("fetch", "local", "--out", tmp_path / "local", "--json").json
    assert found["packages"]["lost"]["status"] == "missing"
    assert found == json.loads((tmp_path / "local/corpus.json").read_text())
