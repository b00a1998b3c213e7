"""Real text in the Pile's format, from file to bits per byte; skipped where there is none."""

from pathlib import Path

import pytest

SAMPLE = Path(__file__).resolve().parents[3] / "shared/data/pile-sample/mini"


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no shared/data/pile-sample beside the checkout")
def test_a_sample_of_the_piles_format_is_prepared_trained_on_and_metered(
    ladderlm, config_file, tmp_path
):
    """D13: the overlap of train and val is counted, every byte of val is scored once."""
    tokenizer, data, run = (tmp_path / name for name in ("tokenizer", "data", "run"))
    words = ["--vocab-size", "1024", "--max-bytes", "2MB", "--out", tokenizer]
    assert ladderlm("tokenizer", "train", SAMPLE / "train", *words).code == 0
    assert ladderlm("prepare", SAMPLE, "--tokenizer", tokenizer, "--out", data).code == 0
    words = ["--config", config_file, "--data", data, "--out", run, "--eval.n-documents", "10"]
    assert ladderlm("train", *words).code == 0
    found = ladderlm("eval", run, "--json").json
    assert found["n_documents"] == found["split_documents"] == 300
    assert found["n_bytes"] == 518_868  # as the sample's own table states
    assert found["source"]["overlap_with_train"] == 0
    assert len(found["subsets"]) > 10
    assert found["pile"]["occurring"]
    assert found["pile"]["missing"]
    assert found["pile"]["unknown"]
    assert sum(row["n_bytes"] for row in found["subsets"].values()) == found["n_bytes"]
    assert 2 < found["bits_per_byte"] < 8  # better than uniform bytes, worse than a trained model
    packed = ladderlm("eval", run, "--fresh", "--packing", "packed", "--json").json
    assert packed["bits_per_byte"] == pytest.approx(found["bits_per_byte"], rel=1e-6)
