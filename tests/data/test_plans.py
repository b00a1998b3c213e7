"""Plans on disk save time and change nothing."""

import logging

import numpy as np
import pytest

from builders import SPLIT_BOS, make_split
from ladderlm.data import plans
from ladderlm.data.best_fit import link_tails
from ladderlm.data.config import DataConfig
from ladderlm.data.stream import RowStream

LENGTHS = [3, 9, 14, 5, 8, 8, 21, 4, 6, 11, 2, 7]
CONFIG = DataConfig(seq_len=8, packing="best-fit", n_lanes=2)


@pytest.fixture(autouse=True)
def _cache_small_splits(monkeypatch):
    monkeypatch.setattr(plans, "CACHED_FROM_DOCUMENTS", 1)


@pytest.fixture
def never(monkeypatch):
    """Make working out a plan an error, from now on."""

    def refuse(*args):
        raise AssertionError("a plan was worked out again")

    return lambda: monkeypatch.setattr(plans, "link_tails", refuse)


def rows_of(folder_or_split, config=CONFIG):
    stream = RowStream(folder_or_split, config, SPLIT_BOS)
    return stream.rows(0, 2 * stream.rows_per_epoch).tokens.tolist()


def test_a_plan_is_kept_and_read_by_whoever_comes_next(tmp_path, never, monkeypatch):
    """Contract, section 3: keyed by data, order seed, row length and policy."""
    split = make_split(tmp_path, LENGTHS)
    expected = rows_of(split)
    assert len(list((tmp_path / "plans").iterdir())) == 2  # two epochs
    never()
    assert rows_of(split) == expected
    monkeypatch.setattr(plans, "CACHED_FROM_DOCUMENTS", 10**9)
    assert rows_of(split) == expected  # and without any file


def test_other_data_seeds_epochs_and_lengths_have_their_own_plans(tmp_path):
    names = set()
    for folder, lengths in (("a", LENGTHS), ("b", [*LENGTHS, 30])):
        split = make_split(tmp_path / folder, lengths)
        for seed in (1, 2):
            for seq_len in (8, 9):
                for epoch in (0, 1):
                    config = DataConfig(seq_len=seq_len, packing="best-fit", order_seed=seed)
                    names.add(plans.plan_file(split, config, epoch).name)
    assert len(names) == 16
    for config in (DataConfig(packing="concat"), DataConfig(packing="padded")):
        assert plans.plan_file(split, config, 0) is None
    lanes = DataConfig(seq_len=9, packing="best-fit", order_seed=2, n_lanes=7)
    assert plans.plan_file(split, lanes, 1).name in names  # lanes only choose among its rows


def test_a_small_split_keeps_no_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "CACHED_FROM_DOCUMENTS", len(LENGTHS) + 1)
    rows_of(make_split(tmp_path, LENGTHS))
    assert not (tmp_path / "plans").exists()


def test_a_damaged_plan_is_noticed_wherever_it_is_damaged(tmp_path, caplog):
    tails = np.array([3, 5, 2, 0, 6, 1, 7], dtype=np.int64)
    expected = link_tails(tails, 8).tolist()
    file = tmp_path / "x.links"
    plans.cached_links(file, tails, 8)
    good = file.read_bytes()
    damaged = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
    for content in [*damaged, b"", good[:-1], good + b"\0", good[:32]]:
        file.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert plans.cached_links(file, tails, 8).tolist() == expected
        assert ("is damaged" in caplog.text) == (content != b"")
        assert file.read_bytes() == good  # mended


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, caplog):
    split = make_split(tmp_path, LENGTHS)
    (tmp_path / "plans").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        found = rows_of(split)
    assert "is not kept" in caplog.text
    (tmp_path / "plans").unlink()
    assert rows_of(split) == found
