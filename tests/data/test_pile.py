"""The files of the Pile from known sources in turn, an address, or a folder."""

import hashlib
import json
import os
import random

import pytest

from builders import make_records
from ladderlm.data import fetch, pile
from ladderlm.data.documents import Reader
from ladderlm.data.fetch import MAX_TRIES
from ladderlm.data.pile import SOURCES, fetch_pile
from ladderlm.errors import CheckpointError, ConfigError, DataError, LadderError
from ladderlm.files import FolderLock
from mirror import Answer, serve

FIRST = "/datasets/mit-han-lab/pile-val-backup/resolve/main"
SECOND = "/datasets/monology/pile-uncopyrighted/resolve/main"
LINES = "".join(json.dumps(record) + "\n" for record in make_records(5, seed=4)).encode()
ORIGINAL, OTHER = LINES, random.Random(1).randbytes(150_000)
PAGE = {"Content-Type": "text/html"}


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine with both known sources, named by HF_ENDPOINT."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serve() as running:
        running.files[FIRST + "/val.jsonl.zst"] = ORIGINAL
        running.files[SECOND + "/val.jsonl.zst"] = OTHER
        running.files[SECOND + "/test.jsonl.zst"] = OTHER + b"test"
        for shard in (0, 7, 29):
            running.files[f"{SECOND}/train/{shard:02d}.jsonl.zst"] = OTHER + bytes([shard])
        monkeypatch.setenv("HF_ENDPOINT", running.url + "/")
        yield running


@pytest.fixture
def get(tmp_path):
    """Fetch into a folder without pauses."""

    def give(split="val", shards=(0,), source=None, **options):
        out = tmp_path / "pile"
        return fetch_pile(out, split, shards, source, **{"back_off_seconds": 0.0, **options})

    return give


def asked_of(hub):
    return [path for path, _ in hub.asked]


def test_the_original_validation_file_is_taken_first_and_described(hub, get, tmp_path):
    record = get()
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == ORIGINAL
    assert record == json.loads((tmp_path / "pile/pile.json").read_text())
    assert record["files"] == {
        "val.jsonl.zst": {
            "host": "127.0.0.1",
            "n_bytes": len(ORIGINAL),
            "sha256": hashlib.sha256(ORIGINAL).hexdigest(),
            "checksum_known_beforehand": False,
            "note": "the original val.jsonl.zst",
        }
    }
    assert asked_of(hub) == [FIRST + "/val.jsonl.zst"]
    documents = list(Reader([tmp_path / "pile"]))
    assert [d.subset for d in documents] == [
        r["meta"]["pile_set_name"] for r in make_records(5, seed=4)
    ]


@pytest.mark.parametrize(
    "broken",
    [
        Answer(status=404),
        Answer(status=410),
        Answer(status=401),
        Answer(status=200, body=b"<html>are you a robot?</html>", headers=PAGE),
        Answer(headers={"Content-Encoding": "br"}),
        Answer(framing="close"),
        Answer(length="0", cut=0),
    ],
)
def test_a_source_that_is_gone_gives_way_to_the_next_which_is_named(broken, hub, get, tmp_path):
    """N08: 404, 410, a login, a page with status 200, bytes that cannot be trusted."""
    hub.script.append(broken)
    record = get()
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == OTHER
    assert "another file than the original" in record["files"]["val.jsonl.zst"]["note"]
    assert asked_of(hub) == [FIRST + "/val.jsonl.zst", SECOND + "/val.jsonl.zst"]


def test_when_no_source_has_the_file_each_is_named_with_what_it_said(hub, get, tmp_path):
    """N08: and the way by hand."""
    hub.files.clear()
    hub.script.extend([Answer(status=410), Answer(status=200, body=b"<html>", headers=PAGE)])
    with pytest.raises(DataError, match=r"no source has val\.jsonl\.zst") as caught:
        get()
    assert f"{FIRST}/val.jsonl.zst: the server answers 410" in caught.value.why
    assert f"{SECOND}/val.jsonl.zst answers with a web page" in caught.value.why
    assert caught.value.why.count(hub.url) == 2
    assert f"put it at {tmp_path}/pile/val.jsonl.zst" in caught.value.fix
    assert "ladderlm prepare" in caught.value.fix
    assert not (tmp_path / "pile/pile.json").exists()


def test_bytes_of_two_sources_never_meet_in_one_file(hub, get, tmp_path):
    """S1: the first source breaks half-way, the second holds another file of that name."""
    hub.script.append(Answer(cut=1000))
    hub.script.extend([Answer(status=503)] * MAX_TRIES)
    get()
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == OTHER
    assert hub.asked[-1] == (SECOND + "/val.jsonl.zst", None)


def test_a_source_is_only_asked_for_splits_that_it_has(hub, get, tmp_path):
    get("test")
    assert asked_of(hub) == [SECOND + "/test.jsonl.zst"]
    assert (tmp_path / "pile/test.jsonl.zst").read_bytes() == OTHER + b"test"


def test_shards_of_train_lie_in_a_folder_of_their_own(hub, get, tmp_path):
    record = get("train", (0, 29))
    names = ["train/00.jsonl.zst", "train/29.jsonl.zst"]
    assert list(record["files"]) == names
    for name, shard in zip(names, (0, 29), strict=True):
        assert (tmp_path / "pile" / name).read_bytes() == OTHER + bytes([shard])


def test_good_files_are_kept_and_a_damaged_one_is_fetched_again(hub, get, tmp_path):
    first = get("train", (0, 7))
    n_asked = len(hub.asked)
    assert get("train", (0, 7)) == first
    assert len(hub.asked) == n_asked
    damaged = tmp_path / "pile/train/07.jsonl.zst"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert get("train", (0, 7, 29))["files"].keys() == first["files"].keys() | {
        "train/29.jsonl.zst"
    }
    assert damaged.read_bytes() == OTHER + bytes([7])
    assert asked_of(hub)[n_asked:] == [f"{SECOND}/train/{n}.jsonl.zst" for n in ("07", "29")]


def test_what_arrived_before_a_failure_is_recorded_and_kept(hub, get, tmp_path):
    """N07: the next command goes on with the second file."""
    with pytest.raises(DataError, match=r"no source has train/08\.jsonl\.zst"):
        get("train", (0, 8, 7))
    record = json.loads((tmp_path / "pile/pile.json").read_text())
    assert list(record["files"]) == ["train/00.jsonl.zst"]
    hub.asked.clear()
    get("train", (0, 7))
    assert asked_of(hub) == [SECOND + "/train/07.jsonl.zst"]


def test_an_interrupted_file_goes_on_from_its_part(hub, get, tmp_path):
    """N03: the same command again."""
    hub.files.pop(FIRST + "/val.jsonl.zst")
    hub.script.extend([Answer(status=404), Answer(cut=54_321)])
    hub.always = Answer(status=500)
    with pytest.raises(DataError):
        get()
    hub.always = Answer()
    hub.asked.clear()
    get()
    assert hub.asked == [(FIRST + "/val.jsonl.zst", None), (SECOND + "/val.jsonl.zst", 54_321)]
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == OTHER


def test_progress_names_the_file(hub, get):
    seen = []
    get(progress=lambda name, done, total: seen.append((name, done, total)))
    assert seen[-1] == ("val.jsonl.zst", len(ORIGINAL), len(ORIGINAL))


@pytest.mark.parametrize("end", ["", "/"])
def test_an_address_is_asked_for_the_same_layout(end, hub, get, tmp_path):
    hub.files["/my/pile/train/03.jsonl.zst"] = b"three"
    record = get("train", (3,), f"{hub.url}/my/pile{end}")
    assert (tmp_path / "pile/train/03.jsonl.zst").read_bytes() == b"three"
    assert record["files"]["train/03.jsonl.zst"]["note"] == "as named by --source"


def test_a_named_source_is_the_only_one_asked(hub, get, tmp_path):
    get(source="pile-uncopyrighted")
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == OTHER
    assert asked_of(hub) == [SECOND + "/val.jsonl.zst"]


@pytest.mark.parametrize("word", ["1", "true", "YES", "on"])
def test_offline_nothing_is_asked_but_a_folder_still_works(word, hub, get, monkeypatch, tmp_path):
    """X05: HF_HUB_OFFLINE."""
    monkeypatch.setenv("HF_HUB_OFFLINE", word)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set") as caught:
        get()
    assert "--source" in caught.value.fix
    (tmp_path / "disk/train").mkdir(parents=True)
    (tmp_path / "disk/train/02.jsonl.zst").write_bytes(b"two")
    record = get("train", (2,), str(tmp_path / "disk"))
    assert (tmp_path / "pile/train/02.jsonl.zst").read_bytes() == b"two"
    assert record["files"]["train/02.jsonl.zst"]["sha256"] == hashlib.sha256(b"two").hexdigest()
    with pytest.raises(DataError, match=r"no source has val\.jsonl\.zst") as caught:
        get(source=str(tmp_path / "disk"))
    assert f"{tmp_path}/disk/val.jsonl.zst does not exist" in caught.value.why
    assert hub.asked == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("dev",), "one of train, val, test"),
        (("train", ()), "between 0 and 29"),
        (("train", (0, 30)), "between 0 and 29"),
        (("train", (-1,)), "between 0 and 29"),
        (("val", (0,), "pile-val-backupp"), r"did you mean pile-val-backup\?"),
        (("val", (0,), "./nowhere"), "name a URL"),
        (("val", (0,), "file:///etc"), "name a URL"),
        (("val", (0,), "ftp://127.0.0.1/pile"), "name a URL"),
        (("train", (0,), "pile-val-backup"), "it has val"),
    ],
)
def test_wrong_wishes_are_refused_before_anything_is_made(arguments, says, hub, get, tmp_path):
    with pytest.raises(ConfigError, match=says):
        get(*arguments)
    assert hub.asked == []
    assert list(tmp_path.iterdir()) == []


def test_two_downloads_into_one_folder_exclude_each_other(hub, get, tmp_path):
    """N07: the second names the process that holds the folder."""
    with FolderLock(tmp_path / "pile"):
        with pytest.raises(CheckpointError, match=f"is in use by pid {os.getpid()} ") as caught:
            get()
        assert "another --out" in caught.value.fix
    assert hub.asked == []
    get()


def test_a_full_disk_is_no_reason_to_ask_the_next_source(hub, get, monkeypatch):
    """N07: what the disk does not take from one source it does not take from another."""

    def full(path, data):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(fetch, "append_bytes", full)
    with pytest.raises(LadderError, match="No space left on device") as caught:
        get()
    assert not isinstance(caught.value, DataError)
    assert len(hub.asked) == 1


def test_each_known_source_says_how_it_differs_and_every_split_has_one(hub):
    assert {split for source in SOURCES.values() for split in source.splits} == {
        "train",
        "val",
        "test",
    }
    assert all(source.note for source in SOURCES.values())
    assert len(pile.file_names("train", tuple(range(30)))) == 30
