"""`ladderlm fetch`: options of both corpora; what is fetched is tested beside its module."""

import hashlib
import json

import pytest

from ladderlm.cli import fetch
from ladderlm.data.local import fetch_local
from mirror import Answer, serve

REPOSITORY = "/datasets/mit-han-lab/pile-val-backup/resolve/main"


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine that holds one validation file."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serve() as running:
        running.files[f"{REPOSITORY}/val.jsonl.zst"] = b"validation"
        running.files["/own/train/00.jsonl.zst"] = b"zero"
        running.files["/own/train/02.jsonl.zst"] = b"two"
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_the_validation_file_of_the_pile_is_fetched_and_described(hub, ladderlm, tmp_path):
    said = ladderlm("fetch", "pile", "--out", tmp_path / "pile")
    assert said.code == 0, said.err
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == b"validation"
    digest = hashlib.sha256(b"validation").hexdigest()
    assert f"{tmp_path}/pile/val.jsonl.zst: 10 B, SHA-256 {digest[:16]}" in said.out
    assert "the original" in said.out
    again = ladderlm("fetch", "pile", "--out", tmp_path / "pile", "--json")
    assert again.json == json.loads((tmp_path / "pile/pile.json").read_text())
    assert len(hub.asked) == 1


def test_shards_and_sources_are_named(hub, ladderlm, tmp_path):
    words = ["--split", "train", "--shards", "0,2", "--source", f"{hub.url}/own"]
    assert ladderlm("fetch", "pile", "--out", tmp_path, *words).code == 0
    assert (tmp_path / "train/02.jsonl.zst").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pile", "--split", "dev"], "one of train, val, test"),
        (["pile", "--split", "train", "--shards", "a,b"], "write 0 or 0,1,2"),
        (["pile", "--split", "train", "--shards", ""], "write 0 or 0,1,2"),
        (["pile", "--split", "train", "--shards", "30"], "between 0 and 29"),
        (["pile", "--source", "pile-val-bakup"], "did you mean pile-val-backup?"),
        (["pile", "--source", "./nowhere"], "name a URL"),
        (["pyle"], "('local', 'pile')"),
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
