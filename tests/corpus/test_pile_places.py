"""Files of the Pile from an address, a folder and the hub's cache, each held against its hash."""

import pytest

from ladderlm.corpus.head import HeadLimits
from ladderlm.errors import ConfigError, DataError
from mirror import Answer
from pile_mirror import (
    FIRST,
    FULL,
    LINES,
    ORIGINAL,
    OTHER,
    OTHERS,
    asked_of,
    sha256,
)

try:
    from compression import zstd
except ImportError:
    from backports import zstd


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


def test_offline_nothing_is_asked_but_a_folder_still_works(hub, get, disk, monkeypatch):
    """X05: HF_HUB_OFFLINE."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home/hub"))
    folder = tmp_path / "home/hub/datasets--mit-han-lab--pile-val-backup"
    commit = "0123456789abcdef" * 2 + "01234567"
    for place in ("blobs", "refs", f"snapshots/{commit}"):
        (folder / place).mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    blob = folder / "blobs" / sha256(ORIGINAL)
    blob.write_bytes(ORIGINAL)
    (folder / f"snapshots/{commit}/val.jsonl.zst").symlink_to(f"../../blobs/{blob.name}")
    return blob


@pytest.mark.parametrize("offline", [False, True])
def test_a_file_in_the_cache_of_the_hub_is_used_and_verified(offline, hub, get, cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
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
        get(limits=HeadLimits(max_documents=2))
    (tmp_path / "pile/val.jsonl.zst").unlink()
    assert get(limits=HeadLimits(max_documents=2))["files"]["val.jsonl.zst"]["part"] == "head"
    assert len(hub.asked) == 2
