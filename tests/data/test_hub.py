"""The hub's cache on this disk: found where the environment says, and nowhere else."""

import pytest

from ladderlm.data.hub import cached_file, dataset_url, is_offline

COMMIT = "0123456789" * 4
DIGEST = "cd" * 32


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with one dataset of one small and one large file."""
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".cache/huggingface/hub/datasets--owner--name"
    for place in ("blobs", "refs", f"snapshots/{COMMIT}/train"):
        (folder / place).mkdir(parents=True)
    (folder / "refs/main").write_text(COMMIT + "\n")
    for blob, name, up in ((DIGEST, "train/00.jsonl.zst", "../../../"), ("ab" * 20, "s", "../../")):
        (folder / "blobs" / blob).write_bytes(b"data")
        (folder / f"snapshots/{COMMIT}" / name).symlink_to(f"{up}blobs/{blob}")
    return folder


def test_a_large_file_is_found_with_its_hash_and_a_small_one_without(cache):
    assert cached_file("owner/name", "train/00.jsonl.zst") == (cache / "blobs" / DIGEST, DIGEST)
    assert cached_file("owner/name", "s") == (cache / f"blobs/{'ab' * 20}", None)
    assert cached_file("owner/name", "other") is None
    assert cached_file("owner/other", "s") is None


@pytest.mark.parametrize(
    ("variable", "above"), [("HF_HUB_CACHE", 1), ("HF_HOME", 2), ("XDG_CACHE_HOME", 3)]
)
def test_the_environment_names_the_cache(variable, above, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert cached_file("owner/name", "s") is None
    monkeypatch.setenv(variable, str(cache.parents[above - 1]))
    assert cached_file("owner/name", "s") is not None


def test_nothing_outside_the_folder_of_the_dataset_is_read(cache, tmp_path):
    """D20: links and names that lead out."""
    (tmp_path / "secret").write_text("x")
    (cache / f"snapshots/{COMMIT}/out").symlink_to(tmp_path / "secret")
    assert cached_file("owner/name", "out") is None
    assert cached_file("owner/name", "../" * 6 + "secret") is None
    for reference in ("../../..", "", "g" * 40, COMMIT[:-1]):
        (cache / "refs/main").write_text(reference)
        assert cached_file("owner/name", "s") is None


@pytest.mark.parametrize(
    ("word", "offline"), [("1", True), ("ON", True), ("0", False), ("", False)]
)
def test_offline_is_a_word_of_the_environment(word, offline, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", word)
    assert is_offline() is offline


def test_files_lie_below_the_dataset(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.invalid/")
    assert dataset_url("a/b") == "http://mirror.invalid/datasets/a/b/resolve/main"
