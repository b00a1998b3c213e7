"""The files of the Pile from known sources in turn: order, failures, several shards, records."""

import json
import os
import random
import re
from dataclasses import asdict

import pytest

from builders import make_records
from ladderlm.corpus import fetch, transfer
from ladderlm.corpus.documents import Reader
from ladderlm.corpus.head import HeadLimits
from ladderlm.corpus.pile import PileRequest, fetch_pile
from ladderlm.corpus.pile_sources import SOURCES
from ladderlm.corpus.transfer import MAX_FIRST_TRIES
from ladderlm.errors import CheckpointError, ConfigError, DataError, LadderError
from ladderlm.files import FolderLock
from mirror import Answer, serve
from pile_mirror import (
    DOCUMENTS,
    FIRST,
    FULL,
    LINES,
    MAGIC,
    ORIGINAL,
    OTHER,
    OTHERS,
    asked_of,
    files_of,
    sha256,
)

PAGE = {"Content-Type": "text/html"}


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
    wanted = PileRequest(split="train", shards=(0, 7), n_jobs=1)
    with pytest.raises(DataError, match=r"no source has train/07\.jsonl\.zst"):
        fetch_pile(tmp_path / "new", wanted, back_off_seconds=0.0)
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("dev",), "one of train, val, test"),
        (("train", ()), "between 0 and 29"),
        (("train", (0, 30)), "between 0 and 29"),
        (("train", (-1,)), "between 0 and 29"),
        (("val", (0,), "pile-val-backupp"), "use --source pile-val-backup"),
        (("val", (0,), "./nowhere"), "name a URL"),
        (("val", (0,), "file:///etc"), "name a URL"),
        (("val", (0,), "ftp://127.0.0.1/pile"), "name a URL"),
        (("train", (0,), "pile-val-backup"), "no split train, only val"),
    ],
)
def test_wrong_wishes_are_refused_before_anything_is_made(arguments, says, hub, get, tmp_path):
    with pytest.raises(ConfigError, match=says):
        get(*arguments)
    with pytest.raises(ConfigError, match="at least 1"):
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
    """N08: tries for each of four sources of one hub would add up."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    with serve() as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    waits = []
    monkeypatch.setattr(transfer, "_pause", lambda stop, seconds: waits.append(seconds))
    with pytest.raises(DataError, match="no source has") as caught:
        get()
    assert len(waits) == MAX_FIRST_TRIES - 1
    assert (
        len(re.findall("not tried, since 127.0.0.1:[0-9]+ does not answer", caught.value.why)) == 3
    )


def test_leftovers_of_a_killed_process_are_removed(hub, get, tmp_path):
    """N07, C11."""
    (tmp_path / "pile/train").mkdir(parents=True)
    (tmp_path / "pile/train/.tmp-1-00.jsonl.zst.ready.part").write_bytes(b"half")
    get()
    assert sorted(files_of(tmp_path / "pile")) == ["pile.json", "val.jsonl.zst"]


@pytest.mark.parametrize("limits", [HeadLimits(), HeadLimits(max_documents=3)])
def test_an_end_between_the_record_and_the_name_of_a_file_is_no_loss(
    limits, hub, get, monkeypatch, tmp_path
):
    """N07, D15: the worst moment for a kill; the next call ends as if nothing had been."""
    fetch_pile(tmp_path / "good", PileRequest(**asdict(limits)))
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "move_into_place", lambda source, target: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            get(limits=limits)
    assert "val.jsonl.zst" in json.loads((tmp_path / "pile/pile.json").read_text())["files"]
    assert not (tmp_path / "pile/val.jsonl.zst").exists()
    hub.n_sent = 0
    get(limits=limits)
    assert files_of(tmp_path / "pile") == files_of(tmp_path / "good")
    assert hub.n_sent <= (len(ORIGINAL) if limits else 0)  # a whole part needs no byte more
