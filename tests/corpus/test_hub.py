"""The hub's cache on this disk: found where the hub's client says, and nothing outside it read."""

import subprocess

import pytest

from ladderlm.corpus.hub import cached_file, dataset_url, is_offline

COMMIT = "0123456789" * 4
DIGEST = "cd" * 32


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with one dataset of one small and one large file."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub/datasets--owner--name"
    for place in ("blobs", "refs", f"snapshots/{COMMIT}/train"):
        (folder / place).mkdir(parents=True)
    (folder / "refs/main").write_text(COMMIT)
    for blob, name, up in ((DIGEST, "train/00.jsonl.zst", "../../../"), ("ab" * 20, "s", "../../")):
        (folder / "blobs" / blob).write_bytes(b"data")
        (folder / f"snapshots/{COMMIT}" / name).symlink_to(f"{up}blobs/{blob}")
    return folder


def test_a_large_file_is_found_with_its_hash_and_a_small_one_without(cache):
    assert cached_file("owner/name", "train/00.jsonl.zst") == (cache / "blobs" / DIGEST, DIGEST)
    assert cached_file("owner/name", "s") == (cache / f"blobs/{'ab' * 20}", None)
    assert cached_file("owner/name", "other") is None
    assert cached_file("owner/other", "s") is None


def test_a_file_that_is_known_not_to_exist_is_not_found(cache):
    (cache / ".no_exist" / COMMIT).mkdir(parents=True)
    (cache / ".no_exist" / COMMIT / "s").touch()
    assert cached_file("owner/name", "s") is None


def test_the_environment_names_the_cache(cache, python, child_environment):
    code = "from ladderlm.corpus.hub import cached_file; print(cached_file('owner/name', 's')[0])"
    child_environment.pop("HF_HUB_CACHE", None)
    environment = {**child_environment, "HF_HOME": str(cache.parents[1])}
    found = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(cache / f"blobs/{'ab' * 20}"), found.stderr


def test_nothing_outside_the_folder_of_the_dataset_is_read(cache, tmp_path):
    """D20: links and names that lead out."""
    (tmp_path / "secret").write_text("x")
    (cache / f"snapshots/{COMMIT}/out").symlink_to(tmp_path / "secret")
    assert cached_file("owner/name", "out") is None
    for name in ("../" * 4 + "secret", str(tmp_path / "secret"), "train/../../../../../secret"):
        assert cached_file("owner/name", name) is None
    assert cached_file("../owner", "s") is None
    for reference in ("../../..", "", "g" * 40, COMMIT[:-1]):
        (cache / "refs/main").write_text(reference)
        assert cached_file("owner/name", "s") is None


@pytest.mark.parametrize("offline", [True, False])
def test_the_hub_s_client_knows_whether_it_may_be_asked(offline, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    assert is_offline() is offline


def test_files_lie_below_the_dataset(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.invalid/")
    assert dataset_url("a/b") == "http://mirror.invalid/datasets/a/b/resolve/main"
