"""What is shown of a batch is what is in it."""

import ast
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_records
from ladderlm.data.config import DataConfig
from ladderlm.data.inspect import (
    POLICIES,
    compare_policies,
    describe_row,
    describe_stream,
    explain_policy,
    row_pieces,
    show_tokens,
    sketch_attention,
    summarise_batch,
)
from ladderlm.data.shards import open_data
from ladderlm.data.stream import RowStream

RECORDS = make_records(60, seed=1)  # those of `tiny_data`


@pytest.fixture(params=POLICIES)
def stream(request, tiny_data):
    data = open_data(tiny_data)
    config = DataConfig(seq_len=64, packing=request.param)
    return RowStream(data.split("train"), config, data.bos_id)


def test_pieces_cover_each_row_with_its_documents_subsets_and_targets(stream, tiny_tokenizer):
    batch = stream.rows(0, stream.rows_per_epoch)
    for row in range(batch.n_rows):
        pieces = row_pieces(batch, row, stream.split, tiny_tokenizer)
        assert [p.start for p in pieces] == [
            sum(p.n_tokens for p in pieces[:i]) for i in range(len(pieces))
        ]
        assert sum(p.n_tokens for p in pieces) == 64
        assert sum(p.n_targets for p in pieces) == batch.loss_mask[row].sum()
        for piece in pieces:
            if piece.document is None:
                assert piece is pieces[-1]
                assert (piece.n_targets, piece.text, piece.ids) == (0, "", [])
                continue
            record = RECORDS[piece.document]
            assert piece.subset == record["meta"]["pile_set_name"]
            assert piece.text in record["text"]
            assert piece.first_position == 0
            assert piece.n_targets == piece.n_tokens


def test_a_described_row_shows_document_subset_text_mask_and_shift(stream, tiny_tokenizer):
    whole = stream.rows(0, stream.rows_per_epoch)
    last_row = whole.n_rows - 1
    rows = {0, last_row} | {r for r in range(whole.n_rows) if (whole.segment_ids[r] < 0).any()}
    for row in sorted(rows)[:4]:
        text = describe_row(whole, row, stream.split, tiny_tokenizer, width=10_000)
        for piece in row_pieces(whole, row, stream.split, tiny_tokenizer):
            start, end = piece.start, piece.start + piece.n_tokens
            if piece.document is None:
                assert f"[{start}:{end}] padding, no targets" in text
                continue
            assert f"[{start}:{end}] document {piece.document} ({piece.subset})" in text
            assert f"{piece.n_targets} targets" in text
            assert repr(piece.text) in text
            targets = whole.targets[row, start : min(start + 6, end)].tolist()
            assert f"targets {targets} " in text
        begins = [int(ids[0] == tiny_tokenizer.bos_id) for ids in _ids(whole, row)]
        assert text.count("from its BOS") == sum(begins)
        assert text.count("continued") == len(begins) - sum(begins)


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
    from ladderlm.prepare.prepare import PrepareConfig, prepare
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
    report = stream.report()
    assert f"{report.tokens_per_document:,.1f} tokens a document" in text
    assert f"{report.n_cut:,} documents are cut" in text
    assert f"{report.n_cut_needlessly:,} of them would fit in a row" in text


def test_every_policy_is_explained_and_compared(stream):
    """Concatenation wastes least, padding most, and best fit cuts no document that would fit."""
    reports = compare_policies(stream)
    assert tuple(reports) == POLICIES
    n_targets = stream.n_targets(0, stream.rows_per_epoch)
    assert {report.n_pairs for report in reports.values()} == {n_targets}
    concat, best, padded = (reports[name] for name in POLICIES)
    assert concat.waste <= best.waste < padded.waste
    assert concat.n_cut_needlessly > 0
    assert best.n_cut_needlessly == padded.n_cut_needlessly == 0
    assert best.n_cut == padded.n_cut <= concat.n_cut
    words = {
        explain_policy(DataConfig(packing=packing, mask_documents=mask))
        for packing in POLICIES
        for mask in (True, False)
    }
    assert len(words) == 6


def test_a_batch_is_summed_up_by_what_stands_in_it(stream):
    batch, split = stream.rows(0, 9), stream.split
    found = summarise_batch(batch, split)
    real = batch.segment_ids >= 0
    assert (found["n_rows"], found["n_places"], found["n_tokens"]) == (9, 9 * 64, real.sum())
    assert found["n_targets"] == batch.loss_mask.sum()
    assert found["n_documents"] == len(set(batch.document_ids[real].tolist()))
    assert found["n_pieces"] == sum(len(set(row[row >= 0].tolist())) for row in batch.segment_ids)
    assert found["waste"] == pytest.approx((~real).mean())
    assert found["masked"] == pytest.approx((~batch.loss_mask).mean())
    counted = {}
    for document in batch.document_ids[real].tolist():
        name = RECORDS[document]["meta"]["pile_set_name"]
        counted[name] = counted.get(name, 0) + 1
    assert {name: subset["n_tokens"] for name, subset in found["subsets"].items()} == counted
    assert sum(subset["share"] for subset in found["subsets"].values()) == pytest.approx(1)
    sizes = [subset["n_tokens"] for subset in found["subsets"].values()]
    assert sizes == sorted(sizes, reverse=True)


def test_an_empty_batch_is_summed_up_without_a_division_by_zero(stream):
    found = summarise_batch(stream.rows(0, 1).rows(0, 0), stream.split)
    assert (found["n_rows"], found["waste"], found["subsets"]) == (0, 0.0, {})


def test_partial_characters_show_their_bytes_and_what_they_make(tiny_tokenizer):
    ids = tiny_tokenizer.encode("a€b", bos=True, eos=True)
    shown = show_tokens(ids, tiny_tokenizer)
    assert [token.text for token in shown] == ["BOS", "a", "‹E2›", "‹82›", "‹AC›€", "b", "EOS"]
    assert [token.kind for token in shown] == ["control", "text", *["bytes"] * 3, "text", "control"]
    assert {token.note for token in shown if token.kind == "bytes"} == {"part of €"}
    cut = show_tokens(ids[1:4], tiny_tokenizer)  # as where a row ends
    assert [(token.text, token.note) for token in cut[1:]] == [
        ("‹E2›", "no character"),
        ("‹82›", "no character"),
    ]


class PiecesOfText:
    """A tokenizer whose tokens are given pieces of bytes."""

    bos_id, eos_id = -1, -2

    def __init__(self, pieces):
        self.pieces = pieces

    def decode_bytes(self, ids, *, continued=False):  # noqa: ARG002
        return b"".join(self.pieces[i] for i in ids)


@given(text=st.text(max_size=12), cuts=st.lists(st.integers(0, 40), max_size=8))
def test_tokens_are_printable_however_characters_are_cut(text, cuts):
    """P01: no byte is lost, and no control character gets through."""
    whole = text.encode()
    borders = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[a:b] for a, b in pairwise(borders)]
    shown = show_tokens(list(range(len(pieces))), PiecesOfText(pieces))
    assert len(shown) == len(pieces)
    for token, piece in zip(shown, pieces, strict=True):
        assert not [c for c in token.text if c not in "\n\t" and ord(c) < 32]
        if token.kind == "text":
            piece.decode()
    if all(token.kind == "text" for token in shown):
        from ladderlm.text import visible

        assert "".join(token.text for token in shown) == visible(text)


def test_bytes_that_are_in_no_character_are_shown_as_such():
    shown = show_tokens([0, 1], PiecesOfText([b"ok\xff\xfe", b"\x80!"]))
    assert [token.text for token in shown] == ["ok‹FF FE›", "‹80›!"]
    assert {token.note for token in shown} == {"no character"}


def test_a_sketch_shows_who_sees_whom():
    segments = np.array([0, 0, 1, 1, 1, 1, -1, -1])
    assert sketch_attention(segments, True, 8) == ["aa", "··bb", "··bbbb", ""]
    assert sketch_attention(segments, False, 8) == ["aa", "aabb", "aabbbb", ""]


def test_a_mixture_is_described_by_the_documents_of_its_subsets(tiny_data):
    data = open_data(tiny_data)
    split = data.split("train")
    for packing in POLICIES:
        config = DataConfig(seq_len=64, packing=packing, subset_weights=(("Code", 3.0),))
        stream = RowStream(split, config, data.bos_id)
        text, report = describe_stream(stream), stream.report()
        code = [r for r in RECORDS if r["meta"]["pile_set_name"] == "Code"]
        assert report.n_documents == len(code)
        assert "rows are drawn from subsets by weight" in text
        assert f"{report.n_rows:,} rows of 64 an epoch" in text
        assert report.waste == compare_policies(stream)[packing].waste
        assert list(summarise_batch(stream.rows(0, 8), split)["subsets"]) == ["Code"]


def test_words_of_sentencepiece_keep_their_spaces():
    """A space before a word is a part of its token, but for the first word of a document."""

    class WithSpaces(PiecesOfText):
        bos_id = 0

        def decode_bytes(self, ids, *, continued=False):
            whole = super().decode_bytes(ids)
            return whole if continued else whole.removeprefix(b" ")

    pieces = [b"", b" one", b" two"]
    assert [t.text for t in show_tokens([0, 1, 2, 1], WithSpaces(pieces))] == [
        "BOS",
        "one",
        " two",
        " one",
    ]
    assert [t.text for t in show_tokens([2, 1], WithSpaces(pieces))] == [" two", " one"]
