"""`ladderlm inspect`: rows of data and of runs, pages and proofs."""

import re
import shutil

import pytest
import torch

from ladderlm.model import transformer as transformer_module
from ladderlm.model.attention import document_mask
from ladderlm.training import step as step_module


def test_rows_of_data_are_described(ladderlm, tiny_data):
    said = ladderlm("inspect", tiny_data, "--rows", "3", "--seq-len", "32")
    assert said.code == 0
    assert "split train: 60 documents" in said.out
    assert re.findall(r"^row (\d+) of batch 0$", said.out, re.MULTILINE) == ["0", "1", "2"]
    assert said.out.count("targets [") >= 3


def test_packing_split_and_batch_can_be_chosen(ladderlm, tiny_data):
    said = ladderlm("inspect", tiny_data, "--packing=padded", "--split=val", "--batch=2")
    assert "split val: 12 documents" in said.out
    assert "packing padded" in said.out
    assert re.findall(r"row (\d+) of batch 2", said.out) == ["4", "5"]


def test_a_run_is_shown_its_own_batches(ladderlm, shared_run):
    said = ladderlm("inspect", shared_run, "--batch", "3", "--rows", "1")
    assert said.code == 0
    assert "rows of 32 an epoch" in said.out
    assert "row 24 of batch 3" in said.out  # 8 rows of 32 make 256 tokens


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--batch", "-1"], "--batch must be at least 0, got -1"),
        (["--rows", "0"], "--rows must be between 1 and 64, got 0"),
        (["--rows", "-2"], "--rows must be between 1 and 64, got -2"),
        (["--seq-len", "1"], "data.seq_len must be in [2, 2^24), got 1"),
        (["--packing", "best"], "'concat', 'padded', 'best-fit'"),
        (["--rows", "65"], "--rows must be between 1 and 64, got 65"),
        (["--prove", "--json", "--seq-len", "0"], "data.seq_len must be in [2, 2^24), got 0"),
        (["--split", "vall"], "only train, val"),
        (["--row", "3"], "--rows"),
    ],
)
def test_wrong_options_are_refused(words, says, ladderlm, tiny_data):
    said = ladderlm("inspect", tiny_data, *words)
    assert said.code == 2
    assert says in said.err
    assert said.out == ""


def test_folders_without_good_data_are_named(ladderlm, tmp_path, data, damage):
    said = ladderlm("inspect", tmp_path / "nowhere")
    assert said.code == 2
    assert "holds no prepared data" in said.err
    damage(data / "train-00000.bin")
    said = ladderlm("inspect", data)
    assert said.code == 2
    assert "train-00000.bin is damaged" in said.err
    (tmp_path / "config.json").write_text("{")
    said = ladderlm("inspect", tmp_path)
    assert said.code == 2
    assert "config.json:1:2: not valid JSON" in said.err


@pytest.mark.parametrize("packing", ["concat", "best-fit", "padded"])
def test_proofs_are_printed_with_their_numbers(packing, ladderlm, tiny_data):
    said = ladderlm("inspect", tiny_data, "--packing", packing, "--seq-len", "48", "--prove")
    assert said.code == 0
    assert re.findall(r"^(PASS|FAIL)  ", said.out, re.MULTILINE) == ["PASS"] * 7
    assert "7 of 7 proofs hold" in said.out
    assert re.search(
        r"documents are isolated: \d+ documents changed .* 0 of [\d,]+ places", said.out
    )


def test_the_leak_of_unmasked_rows_is_counted(ladderlm, tiny_data):
    words = ["--no-mask-documents", "--seq-len", "64", "--prove", "--json"]
    said = ladderlm("inspect", tiny_data, *words)
    assert said.code == 0
    proofs = {proof["name"]: proof for proof in said.json["proofs"]}
    assert proofs["documents leak, as chosen"]["numbers"]["n_later_changed"] > 0
    assert said.json["mask_documents"] is False


def test_a_mask_broken_on_purpose_ends_with_code_1(ladderlm, tiny_data, monkeypatch):
    def leaking(segment_ids):
        own = document_mask(segment_ids)
        return torch.ones_like(own).tril() & (segment_ids >= 0)[:, None, :, None] | own

    monkeypatch.setattr(transformer_module, "document_mask", leaking)
    said = ladderlm("inspect", tiny_data, "--prove", "--seq-len", "64")
    assert said.code == 1
    assert "FAIL  documents are isolated" in said.out
    assert "6 of 7 proofs hold" in said.out


def test_a_loss_that_counts_padding_ends_with_code_1(ladderlm, shared_run, monkeypatch):
    """T01."""
    nats = step_module.sum_head_nats
    monkeypatch.setattr(
        step_module, "sum_head_nats", lambda *args: nats(*args[:3], torch.ones_like(args[3]))
    )
    said = ladderlm("inspect", shared_run, "--prove", "--json")
    assert said.code == 1
    assert "padding has no say" in [p["name"] for p in said.json["proofs"] if not p["passed"]]


def test_a_run_shows_the_losses_of_its_newest_or_a_named_checkpoint(ladderlm, shared_run):
    newest = ladderlm("inspect", shared_run, "--batch", "3", "--rows", "2", "--json").json
    assert newest["note"].startswith("Losses of the model after 8 updates; it was trained on")
    assert newest["summary"]["n_rows"] == 8
    assert [row["row"] for row in newest["rows"]] == [24, 25]
    losses = [loss for row in newest["rows"] for loss in row["losses"]]
    assert len(losses) == 64
    assert all(0 < loss < 20 for loss in losses)
    older = ladderlm("inspect", shared_run, "--batch", "4", "--step", "4", "--json").json
    assert older["note"].startswith("Losses of the model after 4 updates; it was not trained on")
    said = ladderlm("inspect", shared_run, "--batch", "3", "--rows", "1")
    assert re.search(r"loss: \d\.\d{3} nats a token; hardest: '", said.out)


def test_a_run_without_a_checkpoint_is_shown_without_losses(ladderlm, run):
    shutil.rmtree(run / "checkpoints")
    said = ladderlm("inspect", run, "--rows", "1")
    assert said.code == 0
    assert "The run has no checkpoint yet" in said.out
    assert "row 0 of batch 0" in said.out
    said = ladderlm("inspect", run, "--step", "4")
    assert said.code == 2
    assert "holds no checkpoint yet" in said.err


def test_a_page_is_written_and_named(ladderlm, tiny_data, shared_run, tmp_path):
    for source, name in ((tiny_data, "data.html"), (shared_run, "run.html")):
        file = tmp_path / "new" / name
        said = ladderlm("inspect", source, "--html", file, "--prove", "--rows", "2")
        assert said.code == 0
        assert f"page: {file}" in said.out
        assert "row 0 of batch 0" not in said.out
        html = file.read_text(encoding="utf-8")
        assert "Proofs: 7 of 7 hold" in html
        assert ("Colour by" in html) == (source is shared_run)
        assert str(tmp_path) not in html  # P06: only the folder's own name


def test_numbers_come_as_json(ladderlm, tiny_data):
    found = ladderlm("inspect", tiny_data, "--seq-len", "32", "--rows", "3", "--json").json
    assert found["packing"] == "concat"
    assert list(found["policies"]) == ["concat", "best-fit", "padded"]
    assert found["policies"]["padded"]["waste"] > found["policies"]["best-fit"]["waste"]
    assert found["proofs"] == []
    for row in found["rows"]:
        arrays = row["arrays"]
        assert set(map(len, arrays.values())) == {32}
        assert sum(piece["n_tokens"] for piece in row["pieces"]) == 32
        assert arrays["targets"][0] == arrays["tokens"][1]
        assert row["losses"] is None


def test_a_terminal_gets_the_text_in_colours(ladderlm, shared_run, on_terminal, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = ladderlm("inspect", shared_run, "--rows", "1")
    assert "\x1b[" not in plain.out
    on_terminal()
    coloured = ladderlm("inspect", shared_run, "--rows", "1")
    assert "\x1b[" in coloured.out
    assert "<BOS>" in coloured.out
