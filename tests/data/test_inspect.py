"""What is shown of a batch is what is in it."""

import ast

import pytest

from builders import make_records
from ladderlm.data.config import DataConfig
from ladderlm.data.inspect import describe_row, describe_stream, row_pieces
from ladderlm.data.shards import open_data
from ladderlm.data.stream import RowStream

RECORDS = make_records(60, seed=1)  # those of `tiny_data`


@pytest.fixture(params=["concat", "padded"])
def stream(request, tiny_data):
    data = open_data(tiny_data)
    config = DataConfig(seq_len=64, packing=request.param)
    return RowStream(data.split("train"), config, data.bos_id)


def test_pieces_cover_each_row_with_its_documents_subsets_and_targets(stream, tiny_tokenizer):
    batch = stream.rows(0, stream.rows_per_epoch)
    for row in range(batch.n_rows):
        pieces = row_pieces(batch, row, stream.split, tiny_tokenizer)
        assert [p["start"] for p in pieces] == [
            sum(p["n_tokens"] for p in pieces[:i]) for i in range(len(pieces))
        ]
        assert sum(p["n_tokens"] for p in pieces) == 64
        assert sum(p["n_targets"] for p in pieces) == batch.loss_mask[row].sum()
        for piece in pieces:
            if piece["document"] is None:
                assert piece is pieces[-1]
                assert (piece["n_targets"], piece["text"], piece["ids"]) == (0, "", [])
                continue
            record = RECORDS[piece["document"]]
            assert piece["subset"] == record["meta"]["pile_set_name"]
            assert piece["text"] in record["text"]
            assert piece["first_position"] == 0
            assert piece["n_targets"] == piece["n_tokens"]


def test_a_described_row_shows_document_subset_text_mask_and_shift(stream, tiny_tokenizer):
    whole = stream.rows(0, stream.rows_per_epoch)
    last_row = whole.n_rows - 1
    rows = {0, last_row} | {r for r in range(whole.n_rows) if (whole.segment_ids[r] < 0).any()}
    for row in sorted(rows)[:4]:
        text = describe_row(whole, row, stream.split, tiny_tokenizer, width=10_000)
        for piece in row_pieces(whole, row, stream.split, tiny_tokenizer):
            start, end = piece["start"], piece["start"] + piece["n_tokens"]
            if piece["document"] is None:
                assert f"[{start}:{end}] padding, no targets" in text
                continue
            assert f"[{start}:{end}] document {piece['document']} ({piece['subset']})" in text
            assert f"{piece['n_targets']} targets" in text
            assert repr(piece["text"]) in text
            targets = whole.targets[row, start : min(start + 6, end)].tolist()
            assert f"targets {targets} " in text
        begins = [int(ids[0] == tiny_tokenizer.bos_id) for ids in _ids(whole, row)]
        assert text.count("from its BOS") == sum(begins)
        assert text.count("going on") == len(begins) - sum(begins)


def _ids(batch, row):
    segments = batch.segment_ids[row]
    return [batch.tokens[row, segments == s] for s in range(segments.max() + 1)]


def test_a_long_text_is_shortened_in_the_middle(tiny_data, tiny_tokenizer):
    data = open_data(tiny_data)
    stream = RowStream(data.split("train"), DataConfig(seq_len=256), data.bos_id)
    text = describe_row(stream.rows(0, 1), 0, stream.split, tiny_tokenizer, width=20)
    shown = [line.split("input  ")[1] for line in text.splitlines() if "    input  " in line]
    assert any(" ... " in line for line in shown)
    assert all(len(ast.literal_eval(line)) <= 25 for line in shown)


def test_hostile_text_reaches_the_terminal_as_escapes(tiny_tokenizer, tmp_path):
    """P01: a document cannot move the cursor or colour the screen."""
    from builders import write_jsonl
    from ladderlm.data.prepare import PrepareConfig, prepare
    from ladderlm.tokenizer.train import save_tokenizer

    save_tokenizer(tmp_path / "t", tiny_tokenizer, {})
    record = {"text": "\x1b[2J\x07\r\n\u202ehi", "meta": {"pile_set_name": "\x1b[31mred"}}
    source = write_jsonl(tmp_path / "a.jsonl", [record])
    prepare(
        PrepareConfig(
            sources=(str(source),), tokenizer=str(tmp_path / "t"), out=str(tmp_path / "d")
        )
    )
    data = open_data(tmp_path / "d")
    stream = RowStream(data.split("train"), DataConfig(seq_len=32), data.bos_id)
    text = describe_row(stream.rows(0, 1), 0, stream.split, tiny_tokenizer)
    assert not {c for c in text if not c.isprintable()} - {"\n"}


def test_a_stream_is_summed_up_with_its_counts(stream):
    text = describe_stream(stream)
    split = stream.split
    assert f"{split.n_documents:,} documents, {split.n_tokens:,} tokens" in text
    assert f"{stream.rows_per_epoch:,} rows of 64" in text
    assert f"packing {stream.config.packing}, attention within documents" in text
    places = stream.rows_per_epoch * 64
    n_padding = places - stream.n_targets(0, stream.rows_per_epoch)
    assert f"{n_padding / places:.2%} padding" in text
