"""The known sources of the Pile on the loopback interface."""

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import make_records
from ladderlm.corpus.pile_sources import PUBLISHED, SOURCES
from mirror import Mirror, serve

try:
    from compression import zstd
except ImportError:
    from backports import zstd

__all__ = [
    "DOCUMENTS",
    "FIRST",
    "FULL",
    "LINES",
    "MAGIC",
    "ORIGINAL",
    "OTHER",
    "OTHERS",
    "asked_of",
    "files_of",
    "serve_pile",
    "sha256",
]

FIRST, FULL, DOCUMENTS, OTHERS = (
    f"/datasets/{source.repository}/resolve/main" for source in SOURCES.values()
)
LINES = "".join(json.dumps(record) + "\n" for record in make_records(5, seed=4)).encode()
ORIGINAL = zstd.compress(LINES)
MAGIC = b"\x28\xb5\x2f\xfd"
OTHER = MAGIC + random.Random(1).randbytes(150_000)


def sha256(data: bytes) -> str:
    """Return the digest in hex."""
    return hashlib.sha256(data).hexdigest()


def asked_of(hub: Mirror) -> list[str]:
    """Return the paths asked for by GET, in order."""
    return [path for path, _ in hub.asked]


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all bytes below a folder but those of the lock."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


@contextlib.contextmanager
def serve_pile(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Mirror]:
    """Run a hub with two of the known sources, named by HF_ENDPOINT; its cache would be at home."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(home))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
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
