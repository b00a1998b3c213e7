"""The Pile's sources on this machine, for all tests of fetching it."""

from dataclasses import asdict

import pytest

from ladderlm.corpus.head import HeadLimits
from ladderlm.corpus.pile import PileRequest, fetch_pile
from pile_mirror import serve_pile

WHOLE = HeadLimits()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine with two of the known sources, named by HF_ENDPOINT; no cache."""
    with serve_pile(monkeypatch, tmp_path / "nothing") as running:
        yield running


@pytest.fixture
def get(tmp_path):
    """Fetch into a folder without pauses, one file at a time."""

    def give(split="val", shards=(0,), source=None, limits=WHOLE, n_jobs=1, **options):
        options = {"back_off_seconds": 0.0, **options}
        wanted = PileRequest(
            split=split, shards=shards, source=source, n_jobs=n_jobs, **asdict(limits)
        )
        return fetch_pile(tmp_path / "pile", wanted, **options)

    return give
