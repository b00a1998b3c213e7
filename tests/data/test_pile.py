"""The files of the Pile from known sources in turn, an address, a folder or the hub's cache."""

import hashlib
import json
import os
import random
import re

import pytest

from builders import make_records
from ladderlm.data import transfer
from ladderlm.data.documents import Reader
from ladderlm.data.heads import Limits
from ladderlm.data.pile import fetch_pile
from ladderlm.data.sources import PUBLISHED, SOURCES
from ladderlm.data.transfer import MAX_TRIES
from ladderlm.errors import CheckpointError, ConfigError, DataError, LadderError
from ladderlm.files import FolderLock
from mirror import Answer, serve

try:
    from compression import zstd
except ImportError:
    from backports import zstd

FIRST, FULL, DOCUMENTS, OTHERS = (
    f"/datasets/{source.repository}/resolve/main" for source in SOURCES.values()
)
LINES = "".join(json.dumps(record) + "\n" for record in make_records(5, seed=4)).encode()
ORIGINAL = zstd.compress(LINES)
MAGIC = b"\x28\xb5\x2f\xfd"
OTHER = MAGIC + random.Random(1).randbytes(150_000)
PAGE = {"Content-Type": "text/html"}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine with two of the known sources, named by HF_ENDPOINT; no cache."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(PUBLISHED, "val.jsonl.zst", sha256(ORIGINAL))
    monkeypatch.setitem(PUBLISHED, "test.jsonl.zst", sha256(ORIGINAL))
    with serve() as running:
        running.files[FIRST + "/val.jsonl.zst"] = ORIGINAL
        running.files[OTHERS + "/val.jsonl.zst"] = OTHER
        running.files[OTHERS + "/test.jsonl.zst"] = OTHER + b"test"
        for shard in (0, 7, 29):
            running.files[f"{OTHERS}/train/{shard:02d}.jsonl.zst"] = OTHER + bytes([shard])
        monkeypatch.setenv("HF_ENDPOINT", running.url + "/")
        yield running


@pytest.fixture
def get(tmp_path):
    """Fetch into a folder without pauses, one file at a time."""

    def give(split="val", shards=(0,), source=None, **options):
        options = {"back_off_seconds": 0.0, "n_jobs": 1, **options}
        return fetch_pile(tmp_path / "pile", split, shards, source, **options)

    return give


def asked_of(hub):
    return [path for path, _ in hub.asked]


def files_of(folder):
    """Give all published bytes below a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def test_the_original_validation_file_is_taken_first_and_described(hub, get, tmp_path):
    record = get()
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == ORIGINAL
    assert record == json.loads((tmp_path / "pile/pile.json").read_text())
    assert record["files"] == {
        "val.jsonl.zst": {
            "source": "mit-han-lab/pile-val-backup",
            "corpus": "the Pile",
            "note": "the original val.jsonl.zst",
            "n_bytes": len(ORIGINAL),
            "sha256": sha256(ORIGINAL),
            "part": "whole",
            "checksum_known_beforehand": True,
            "checksum_from": "the published hash of the original file",
        }
    }
    assert asked_of(hub) == [FIRST + "/val.jsonl.zst"]
    documents = list(Reader([tmp_path / "pile"]))
    assert [d.subset for d in documents] == [
        r["meta"]["pile_set_name"] for r in make_records(5, seed=4)
    ]


BROKEN = [
    Answer(status=404),
    Answer(status=410),
    Answer(status=401),
    Answer(status=200, body=b"<html>are you a robot?</html>", headers=PAGE),
    Answer(status=200, body=b"\n<!DOCTYPE html>are you a robot?"),
    Answer(headers={"Content-Encoding": "br"}),
    Answer(length="0", cut=0),
    Answer(length="100"),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_source_that_is_gone_gives_way_to_the_next_which_is_named(broken, hub, get, tmp_path):
    """N04, N06, N08: 404, 410, a login, pages, bytes that cannot be trusted."""
    hub.at[FIRST + "/val.jsonl.zst"] = broken
    record = get()
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == OTHER
    assert "another file than the original" in record["files"]["val.jsonl.zst"]["note"]
    assert record["files"]["val.jsonl.zst"]["corpus"] == "Pile Uncopyrighted"
    plain = [DOCUMENTS + "/val.jsonl"]
    assert asked_of(hub) == [
        FIRST + "/val.jsonl.zst",
        FULL + "/val.jsonl.zst",
        *plain,
        OTHERS + "/val.jsonl.zst",
    ]


def test_plain_documents_are_kept_as_they_are_and_said_to_be_another_file(hub, get, tmp_path):
    hub.files = {DOCUMENTS + "/val.jsonl": LINES}
    entry = get()["files"]["val.jsonl"]
    assert "so the file is not the original one" in entry["note"]
    assert entry["checksum_known_beforehand"] is False
    assert entry["sha256"] == sha256(LINES)
    assert len(list(Reader([tmp_path / "pile"]))) == 5
    n_asked = len(hub.asked)
    assert list(get()["files"]) == ["val.jsonl"]  # good as it is: no second copy under .zst
    assert len(hub.asked) == n_asked


def test_a_damaged_plain_file_makes_room_for_a_packed_one(hub, get, tmp_path):
    """S1: two files of one shard would be read as two shards."""
    hub.files = {DOCUMENTS + "/val.jsonl": LINES}
    get()
    (tmp_path / "pile/val.jsonl").write_bytes(b"damaged")
    hub.files[FIRST + "/val.jsonl.zst"] = ORIGINAL
    assert list(get()["files"]) == ["val.jsonl.zst"]
    assert sorted(files_of(tmp_path / "pile")) == ["pile.json", "val.jsonl.zst"]


def test_when_no_source_has_the_file_each_is_named_with_what_it_said(hub, get, tmp_path):
    """N08: and the ways by hand."""
    hub.files.clear()
    hub.at[FIRST + "/val.jsonl.zst"] = Answer(status=410)
    hub.at[OTHERS + "/val.jsonl.zst"] = Answer(status=200, body=b"<html>", headers=PAGE)
    with pytest.raises(DataError, match=r"no source has val\.jsonl\.zst") as caught:
        get()
    assert f"{FIRST}/val.jsonl.zst: the server answers 410" in caught.value.why
    assert f"{FULL}/val.jsonl.zst: the server answers 404" in caught.value.why
    assert f"{OTHERS}/val.jsonl.zst answers with a web page" in caught.value.why
    assert caught.value.why.count(hub.url) == 4
    assert f"put it at {tmp_path}/pile/val.jsonl.zst" in caught.value.fix
    assert sha256(ORIGINAL) in caught.value.fix
    assert all(source.repository in caught.value.fix for source in SOURCES.values())
    assert "ladderlm prepare" in caught.value.fix
    assert not (tmp_path / "pile/pile.json").exists()


def test_a_file_put_there_by_hand_is_taken_recorded_and_compared_with_the_original(
    hub, get, tmp_path
):
    """N08: the way that the message names."""
    hub.files.clear()
    (tmp_path / "pile").mkdir()
    (tmp_path / "pile/val.jsonl.zst").write_bytes(ORIGINAL)
    said = []
    entry = get(say=said.append)["files"]["val.jsonl.zst"]
    assert entry["source"] == "put there by hand"
    assert "by its hash the original val.jsonl.zst" in entry["note"]
    assert "now recorded" in said[-1]
    (tmp_path / "pile/test.jsonl.zst").write_bytes(OTHER)
    entry = get("test")["files"]["test.jsonl.zst"]
    assert "by its hash not the original test.jsonl.zst" in entry["note"]
    assert hub.asked == []


def test_bytes_of_two_sources_never_meet_in_one_file(hub, get, tmp_path):
    """S1: the first source breaks half-way, the second holds another file of that name."""
    hub.files[FIRST + "/val.jsonl.zst"] = ORIGINAL * 50
    hub.at[FIRST + "/val.jsonl.zst"] = Answer(cut=1000, length=str(10**6), shift=7)
    get()
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == OTHER
    assert hub.asked[-1] == (OTHERS + "/val.jsonl.zst", None)
    assert sorted(files_of(tmp_path / "pile")) == ["pile.json", "val.jsonl.zst"]


def test_a_source_is_only_asked_for_splits_that_it_has(hub, get, tmp_path):
    get("test")
    assert asked_of(hub) == [
        FULL + "/test.jsonl.zst",
        DOCUMENTS + "/test.jsonl",
        OTHERS + "/test.jsonl.zst",
    ]
    assert (tmp_path / "pile/test.jsonl.zst").read_bytes() == OTHER + b"test"


def test_shards_of_train_lie_in_a_folder_of_their_own(hub, get, tmp_path):
    record = get("train", (0, 29, 0))
    names = ["train/00.jsonl.zst", "train/29.jsonl.zst"]
    assert list(record["files"]) == names
    for name, shard in zip(names, (0, 29), strict=True):
        assert (tmp_path / "pile" / name).read_bytes() == OTHER + bytes([shard])


def test_the_list_of_hashes_of_a_source_is_read_once_and_decides(hub, get, tmp_path):
    """N06: right size, one byte wrong: refused, kept aside, and the next source is not mixed in."""
    shards = {n: zstd.compress(LINES + bytes([n])) for n in (0, 1)}
    for n, data in shards.items():
        hub.files[f"{FULL}/train/{n:02d}.jsonl.zst"] = data
    listing = "".join(f"{sha256(d)}  ./train/{n:02d}.jsonl.zst\n" for n, d in shards.items())
    hub.files[FULL + "/SHA256SUMS.txt"] = listing.encode()
    record = get("train", (0, 1))
    assert {f["checksum_from"] for f in record["files"].values()} == {
        "SHA256SUMS.txt of the source"
    }
    assert hub.lists_asked == [FULL + "/SHA256SUMS.txt"]

    (tmp_path / "pile/train/01.jsonl.zst").unlink()
    wrong = shards[1][:20] + bytes([shards[1][20] ^ 1]) + shards[1][21:]
    hub.files[f"{FULL}/train/01.jsonl.zst"] = wrong
    with pytest.raises(DataError, match=r"no source has train/01") as caught:
        get("train", (0, 1))
    assert f"expected {sha256(shards[1])[:16]}" in caught.value.why
    assert (tmp_path / "pile/train/01.jsonl.zst.bad").read_bytes() == wrong
    assert not (tmp_path / "pile/train/01.jsonl.zst").exists()


@pytest.mark.parametrize("says", [Answer(status=404), Answer(status=503), Answer(cut=3)])
def test_without_a_list_the_hash_that_was_seen_is_recorded(says, hub, get):
    """N06: no checksum known."""
    hub.files[FULL + "/train/00.jsonl.zst"] = ORIGINAL
    hub.files[FULL + "/SHA256SUMS.txt"] = b"nothing of the kind\n"
    hub.at[FULL + "/SHA256SUMS.txt"] = says
    entry = get("train")["files"]["train/00.jsonl.zst"]
    assert entry["checksum_known_beforehand"] is False
    assert entry["sha256"] == sha256(ORIGINAL)
    assert "checksum_from" not in entry


def test_the_hash_that_the_hub_lists_is_held_against_the_bytes(hub, get, tmp_path):
    """N06: the hub says the SHA-256 of large files beforehand."""
    name = OTHERS + "/train/00.jsonl.zst"
    said = {"X-Linked-Etag": f'"{sha256(hub.files[name])}"', "X-Linked-Size": str(len(OTHER) + 1)}
    hub.heads = Answer(status=302, headers={**said, "Location": "https://storage.invalid/x"})
    source = "pile-uncopyrighted"
    entry = get("train", source=source)["files"]["train/00.jsonl.zst"]
    assert entry["checksum_from"] == "the hub's listing"
    hub.files[name] = OTHER + b"!"
    (tmp_path / "pile/train/00.jsonl.zst").unlink()
    with pytest.raises(DataError, match="no source has") as caught:
        get("train", source=source)
    assert "has other bytes" in caught.value.why


def test_a_hub_that_lists_another_hash_than_the_source_is_not_even_asked_for_it(hub, get):
    """N06: no 14 GB are transferred to find it out."""
    said = {"X-Linked-Etag": f'"{sha256(b"other")}"', "X-Linked-Size": "5"}
    hub.heads = Answer(status=302, headers={**said, "Location": "https://storage.invalid/x"})
    with pytest.raises(DataError, match="no source has") as caught:
        get(source="pile-val-backup")
    assert "the hub says SHA-256" in caught.value.why
    assert hub.asked == []


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
    assert asked_of(hub)[n_asked:] == [f"{OTHERS}/train/{n}.jsonl.zst" for n in ("07", "29")]


def test_training_shards_of_two_corpora_are_never_mixed(hub, get, tmp_path):
    """S1: the rest of a split does not come from a source whose subsets differ."""
    get("train", (7,))  # only Pile Uncopyrighted has it
    hub.files[FULL + "/train/00.jsonl.zst"] = ORIGINAL
    assert get("train", (0,))["files"]["train/00.jsonl.zst"]["corpus"] == "Pile Uncopyrighted"
    with pytest.raises(ConfigError, match="has shards of the Pile") as caught:
        get("train", (0,), "pile-full")
    assert "another --out" in caught.value.fix
    with pytest.raises(DataError, match=r"no source has train/07\.jsonl\.zst"):
        fetch_pile(tmp_path / "new", "train", (0, 7), n_jobs=1, back_off_seconds=0.0)
    assert list(files_of(tmp_path / "new")) == ["pile.json", "train/00.jsonl.zst"]


def test_what_arrived_before_a_failure_is_recorded_and_kept(hub, get, tmp_path):
    """N07: one shard that is missing does not stop the others; the next command goes on."""
    with pytest.raises(DataError, match=r"no source has train/08\.jsonl\.zst"):
        get("train", (0, 8, 7))
    record = json.loads((tmp_path / "pile/pile.json").read_text())
    assert list(record["files"]) == ["train/00.jsonl.zst", "train/07.jsonl.zst"]
    hub.asked.clear()
    get("train", (0, 7, 29))
    assert asked_of(hub) == [OTHERS + "/train/29.jsonl.zst"]


def test_an_interrupted_file_goes_on_from_its_part(hub, get, tmp_path):
    """N03: the same command again."""
    hub.files.pop(FIRST + "/val.jsonl.zst")
    hub.script.extend([Answer(status=404)] * 3 + [Answer(cut=54_321)])
    hub.always = Answer(status=500)
    with pytest.raises(DataError):
        get()
    hub.always = Answer()
    hub.asked.clear()
    get()
    assert hub.asked[-1] == (OTHERS + "/val.jsonl.zst", 54_321)
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == OTHER


def test_a_part_of_another_version_of_the_file_is_thrown_away(hub, get, tmp_path):
    """S1: the file at the server was replaced by one of the same length in between."""
    path, source = "/x/train/00.jsonl.zst", hub.url + "/x"
    hub.files[path] = OTHER
    hub.heads = Answer(headers={"ETag": '"one"'})
    hub.script.append(Answer(cut=54_321))
    hub.always = Answer(status=500)
    with pytest.raises(DataError):
        get("train", source=source)
    hub.always, hub.heads = Answer(), Answer(headers={"ETag": '"two"'})
    hub.files[path] = MAGIC + random.Random(2).randbytes(150_000)
    hub.asked.clear()
    get("train", source=source)
    assert hub.asked == [(path, None)]
    assert (tmp_path / "pile/train/00.jsonl.zst").read_bytes() == hub.files[path]


def test_several_shards_are_on_their_way_at_once(hub, get, tmp_path):
    """Each of three servers' answers waits until all three were asked for."""
    for shard in (0, 7, 29):
        hub.at[f"{OTHERS}/train/{shard:02d}.jsonl.zst"] = Answer(bytes_a_second=500_000)
    before = {}

    def progress(name, done, total):
        before.setdefault(name, len(before))
        assert total == len(OTHER) + 1

    record = get("train", (0, 7, 29), n_jobs=3, progress=progress)
    assert len(record["files"]) == len(before) == 3
    starts = asked_of(hub)[-3:]
    assert sorted(starts) == [f"{OTHERS}/train/{n}.jsonl.zst" for n in ("00", "07", "29")]


def test_a_disk_too_small_for_all_files_together_is_refused_before_a_byte(hub, get, monkeypatch):
    """N07: each shard alone would fit."""
    size = len(OTHER) + 1
    free = 2 * size + 10

    class Status:
        f_bavail, f_frsize = free, 1

    monkeypatch.setattr("ladderlm.files.os.statvfs", lambda path: Status)
    with pytest.raises(LadderError, match="are free"):
        get("train", (0, 7, 29))
    assert not [path for path in asked_of(hub) if path.startswith(OTHERS)]
    assert len(get("train", (0, 7))["files"]) == 2


def test_what_will_be_fetched_and_what_came_is_said(hub, get):
    said = []
    get(say=said.append)
    size = len(ORIGINAL)
    assert said == [
        f"val.jsonl.zst: {size} B from mit-han-lab/pile-val-backup",
        f"val.jsonl.zst: {size} B of {size} B came over the network",
    ]


def test_progress_names_the_file(hub, get):
    seen = []
    get(progress=lambda name, done, total: seen.append((name, done, total)))
    assert seen[-1] == ("val.jsonl.zst", len(ORIGINAL), len(ORIGINAL))


@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("suffix", [".jsonl.zst", ".jsonl"])
def test_an_address_is_asked_for_the_same_layout(end, suffix, hub, get, tmp_path):
    data = ORIGINAL if suffix == ".jsonl.zst" else LINES
    hub.files["/my/pile/train/03" + suffix] = data
    hub.files["/my/pile/SHA256SUMS.txt"] = f"{sha256(data)} *train/03{suffix}".encode()
    record = get("train", (3,), f"{hub.url}/my/pile{end}")
    assert (tmp_path / f"pile/train/03{suffix}").read_bytes() == data
    entry = record["files"]["train/03" + suffix]
    assert entry["note"] == "as named by --source"
    assert entry["source"] == "127.0.0.1"
    assert entry["checksum_known_beforehand"]


def test_secrets_of_an_address_are_not_recorded(hub, get, tmp_path):
    """P06."""
    with pytest.raises(DataError):
        get("train", (3,), hub.url.replace("://", "://user:hush@") + "/none")
    hub.files["/s/val.jsonl.zst"] = ORIGINAL
    get(source=hub.url + "/s")
    assert "hush" not in (tmp_path / "pile/pile.json").read_text()


@pytest.mark.parametrize("source", ["pile-uncopyrighted", "monology/pile-uncopyrighted"])
def test_a_named_source_is_the_only_one_asked(source, hub, get, tmp_path):
    get(source=source)
    assert (tmp_path / "pile/val.jsonl.zst").read_bytes() == OTHER
    assert asked_of(hub) == [OTHERS + "/val.jsonl.zst"]


@pytest.fixture
def disk(tmp_path):
    """A folder laid out as the Pile is."""
    (tmp_path / "disk/train").mkdir(parents=True)
    (tmp_path / "disk/train/02.jsonl.zst").write_bytes(ORIGINAL)
    return tmp_path / "disk"


@pytest.mark.parametrize("word", ["1", "true", "YES", "on"])
def test_offline_nothing_is_asked_but_a_folder_still_works(word, hub, get, disk, monkeypatch):
    """X05: HF_HUB_OFFLINE."""
    monkeypatch.setenv("HF_HUB_OFFLINE", word)
    with pytest.raises(DataError, match="no source has") as caught:
        get()
    assert "HF_HUB_OFFLINE is set" in caught.value.why
    assert "unset HF_HUB_OFFLINE" in caught.value.fix
    assert "--source" in caught.value.fix
    record = get("train", (2,), str(disk))
    assert record["files"]["train/02.jsonl.zst"]["sha256"] == sha256(ORIGINAL)
    with pytest.raises(DataError, match=r"no source has val\.jsonl\.zst") as caught:
        get(source=str(disk))
    assert f"{disk}/val.jsonl.zst does not exist" in caught.value.why
    assert hub.asked == hub.probed == hub.lists_asked == []


def test_files_of_a_folder_are_held_against_its_list(hub, get, disk, tmp_path):
    """N06."""
    (disk / "SHA256SUMS.txt").write_text(f"{sha256(ORIGINAL)}  ./train/02.jsonl.zst\n")
    assert get("train", (2,), str(disk))["files"]["train/02.jsonl.zst"]["checksum_known_beforehand"]
    (tmp_path / "pile/train/02.jsonl.zst").unlink()
    (disk / "train/02.jsonl.zst").write_bytes(ORIGINAL[:-1] + b"x")
    with pytest.raises(DataError, match="no source has") as caught:
        get("train", (2,), str(disk))
    assert "has other bytes" in caught.value.why
    assert str(tmp_path) not in (tmp_path / "pile/pile.json").read_text()


def test_a_file_that_is_written_to_while_it_is_copied_is_refused(hub, get, disk):
    """D16."""

    def progress(name, done, total):
        with open(disk / "train/02.jsonl.zst", "ab") as stream:
            stream.write(b"more")

    with pytest.raises(DataError, match="no source has") as caught:
        get("train", (2,), str(disk), progress=progress)
    assert "changed while it was read" in caught.value.why


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache with the original validation file, as huggingface-hub lays it out."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home/hub/datasets--mit-han-lab--pile-val-backup"
    commit = "0123456789abcdef" * 2 + "01234567"
    for place in ("blobs", "refs", f"snapshots/{commit}"):
        (folder / place).mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    blob = folder / "blobs" / sha256(ORIGINAL)
    blob.write_bytes(ORIGINAL)
    (folder / f"snapshots/{commit}/val.jsonl.zst").symlink_to(f"../../blobs/{blob.name}")
    return blob


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_file_in_the_cache_of_the_hub_is_used_and_verified(offline, hub, get, cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    entry = get()["files"]["val.jsonl.zst"]
    assert entry["checksum_from"] == "its name in the hub's cache"
    assert entry["source"] == "mit-han-lab/pile-val-backup"
    assert hub.asked == []
    assert cache.read_bytes() == ORIGINAL  # it is copied: the cache is left as it was


def test_a_damaged_file_in_the_cache_is_passed_over(hub, get, cache, tmp_path):
    cache.write_bytes(ORIGINAL[:-1] + b"x")
    assert get()["files"]["val.jsonl.zst"]["checksum_from"].startswith("the published hash")
    assert asked_of(hub) == [FIRST + "/val.jsonl.zst"]
    with pytest.raises(ConfigError, match="is there, whole"):
        get(limits=Limits(max_documents=2))
    (tmp_path / "pile/val.jsonl.zst").unlink()
    assert get(limits=Limits(max_documents=2))["files"]["val.jsonl.zst"]["part"] == "head"
    assert len(hub.asked) == 2


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
    with pytest.raises(ConfigError, match="one file"):
        get(n_jobs=0)
    assert hub.asked == hub.probed == []
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

    monkeypatch.setattr(transfer, "append_bytes", full)
    with pytest.raises(LadderError, match="No space left on device") as caught:
        get()
    assert not isinstance(caught.value, DataError)
    assert len(hub.asked) == 1


def test_a_host_that_does_not_answer_is_given_up_once_for_all_its_files(get, monkeypatch, tmp_path):
    """N08: eight tries for each of four sources of one hub would take ten minutes."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    with serve() as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    waits = []
    monkeypatch.setattr(transfer, "_wait", lambda stop, seconds: waits.append(seconds))
    with pytest.raises(DataError, match="no source has") as caught:
        get()
    assert len(waits) == MAX_TRIES - 1
    assert (
        len(re.findall("not asked, since 127.0.0.1:[0-9]+ does not answer", caught.value.why)) == 3
    )


def test_leftovers_of_a_killed_process_are_removed(hub, get, tmp_path):
    """N07, C11."""
    (tmp_path / "pile/train").mkdir(parents=True)
    (tmp_path / "pile/train/.tmp-1-00.jsonl.zst.ready.part").write_bytes(b"half")
    get()
    assert sorted(files_of(tmp_path / "pile")) == ["pile.json", "val.jsonl.zst"]
