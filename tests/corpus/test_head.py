"""The head of a file: whole documents, the same bytes however the input was cut into pieces."""

import hashlib
import io
import json
import random

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists, sampled_from, text

from builders import make_records
from ladderlm.corpus import head as head_module
from ladderlm.corpus.documents import Reader
from ladderlm.corpus.head import Head, HeadLimits
from ladderlm.errors import ConfigError, DataError

try:
    from compression import zstd
except ImportError:
    from backports import zstd

RECORDS = make_records(3000, seed=9)
LINES = [json.dumps(record).encode() + b"\n" for record in RECORDS]
PLAIN = b"".join(LINES)
FRAMES = b"".join(zstd.compress(b"".join(LINES[i : i + 700])) for i in range(0, 3000, 700))
CHECKED = zstd.compress(PLAIN, options={zstd.CompressionParameter.checksum_flag: 1})
SIZES = [len(record["text"].encode()) for record in RECORDS]


def cut(data, limits, pieces=(10**9,), at_end=True):
    """Return counts and bytes of a head of `data`, fed in pieces of the given sizes in turn."""
    sink = io.BytesIO()
    head = Head(limits, sink, "source")
    start, turn = 0, 0
    while start < len(data) and not head.is_full:
        size = pieces[turn % len(pieces)]
        head.feed(data[start : start + size])
        start, turn = start + size, turn + 1
    return head.finish(at_end), sink.getvalue()


def lines_of(packed, tmp_path):
    (tmp_path / "x.jsonl.zst").write_bytes(packed)
    return [document.text for document in Reader([tmp_path / "x.jsonl.zst"])]


@pytest.mark.parametrize("data", [PLAIN, FRAMES, zstd.compress(PLAIN)])
@pytest.mark.parametrize("n", [1, 2, 699, 700, 701, 2999])
def test_so_many_documents_are_the_first_of_the_source(data, n, tmp_path):
    counts, packed = cut(data, HeadLimits(max_documents=n))
    assert counts["documents"] == n
    assert counts["text_bytes"] == sum(SIZES[:n])
    assert counts["line_bytes"] == sum(map(len, LINES[:n]))
    assert lines_of(packed, tmp_path) == [record["text"] for record in RECORDS[:n]]


@pytest.mark.parametrize("data", [PLAIN, FRAMES])
@pytest.mark.parametrize("n", [1, 700, 2000])
@pytest.mark.parametrize("more", [0, -1, 1])
def test_bytes_are_those_of_the_texts_and_never_more_than_wanted(data, n, more, tmp_path):
    counts, packed = cut(data, HeadLimits(max_bytes=sum(SIZES[: n + 1]) + more))
    assert counts["documents"] == (n if more < 0 else n + 1)
    assert len(lines_of(packed, tmp_path)) == counts["documents"]


def test_the_first_limit_that_is_reached_holds():
    assert cut(PLAIN, HeadLimits(max_bytes=10**9, max_documents=5))[0]["documents"] == 5
    assert cut(PLAIN, HeadLimits(max_bytes=sum(SIZES[:5]), max_documents=9))[0]["documents"] == 5


@given(
    pieces=lists(integers(1, 200_000), min_size=1, max_size=5),
    data=sampled_from([PLAIN, FRAMES]),
    n=integers(1, 2999),
)
def test_the_result_does_not_depend_on_how_the_input_arrives(pieces, data, n):
    """N07: an interrupted head ends as the same bytes and the same counts."""
    limits = HeadLimits(max_documents=n)
    assert cut(data, limits, [max(piece, 500) for piece in pieces]) == cut(data, limits)


def test_the_range_that_was_read_is_bounded_and_hashed():
    counts, _ = cut(FRAMES, HeadLimits(max_documents=100))
    first, last = counts["source_byte_range"]
    assert first == 0
    assert last <= len(FRAMES)
    assert last % head_module.STEP_BYTES == 0 or last == len(FRAMES)
    assert counts["source_range_sha256"] == hashlib.sha256(FRAMES[:last]).hexdigest()


def test_the_head_is_made_of_many_frames_with_checksums(monkeypatch):
    monkeypatch.setattr(head_module, "FRAME_BYTES", 50_000)
    counts, packed = cut(PLAIN, HeadLimits(max_documents=2000))
    n_frames, rest = 0, packed
    while rest:
        decompressor = zstd.ZstdDecompressor()
        assert decompressor.decompress(rest).endswith(b"\n")
        rest = decompressor.unused_data
        n_frames += 1
    assert n_frames == counts["line_bytes"] // 50_000 + 1 or n_frames > 5
    damaged = packed[:-2] + bytes([packed[-2] ^ 1]) + packed[-1:]
    with pytest.raises(zstd.ZstdError):
        zstd.decompress(damaged)


@pytest.mark.parametrize("data", [PLAIN, FRAMES])
def test_a_source_that_is_shorter_than_the_limit_is_taken_whole_and_said_so(data, tmp_path):
    counts, packed = cut(data, HeadLimits(max_documents=10**6))
    assert counts["whole_source"]
    assert counts["documents"] == 3000
    assert counts["source_byte_range"] == [0, len(data)]
    assert lines_of(packed, tmp_path) == [record["text"] for record in RECORDS]
    assert not cut(data, HeadLimits(max_documents=7))[0]["whole_source"]


def test_a_last_line_without_its_end_is_a_document_only_at_the_end_of_the_source(tmp_path):
    data = PLAIN[:-1]
    assert cut(data, HeadLimits(max_documents=10**6))[0]["documents"] == 3000
    assert cut(data, HeadLimits(max_documents=10**6), at_end=False)[0]["documents"] < 3000


@given(texts=lists(text(max_size=10), min_size=1, max_size=8), n=integers(1, 8))
def test_lines_are_kept_byte_for_byte_whatever_is_in_them(texts, n):
    """Any Unicode, escapes, CRLF and spaces; blank lines are no documents."""
    lines = [
        json.dumps({"text": t, "extra": [1]}, ensure_ascii=i % 2 == 0).encode("utf-8")
        + (b"\r\n" if i % 3 else b"\n")
        for i, t in enumerate(texts)
    ]
    counts, packed = cut(b"\n\r\n".join(lines), HeadLimits(max_documents=n), pieces=[1])
    assert zstd.decompress(packed) == b"".join(lines[:n])
    assert counts["text_bytes"] == sum(len(t.encode("utf-8")) for t in texts[:n])


def test_lone_surrogates_and_records_without_text_are_left_to_prepare():
    data = b'{"text": "\\ud800"}\n{"no": "text"}\n[1]\n'
    counts, packed = cut(data, HeadLimits(max_documents=3))
    assert zstd.decompress(packed) == data
    assert counts["text_bytes"] == 3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"text": "a"}\nnot json\n', r"source:2: not valid JSON"),
        (b"<html>gone</html>\n", r"source:1: not valid JSON"),
        (b"", "holds no documents"),
        (b"\n\n", "holds no documents"),
        (FRAMES[:-1], "in the middle of a frame"),
        (CHECKED[:-1] + bytes([CHECKED[-1] ^ 1]), "damaged within its first"),
        (FRAMES + b"trailing", "damaged within its first"),
    ],
)
def test_damage_is_named_with_its_place(data, says):
    """N04, D02, D05."""
    with pytest.raises(DataError, match=says):
        cut(data, HeadLimits(max_documents=10**6))


def test_a_document_larger_than_the_limit_says_so():
    with pytest.raises(DataError, match="larger than --max-bytes 3") as caught:
        cut(PLAIN, HeadLimits(max_bytes=3))
    assert caught.value.fix == "set a larger --max-bytes"


def test_a_line_without_end_is_refused_in_bounded_memory(monkeypatch):
    """D04: a bomb of a few kilobytes."""
    monkeypatch.setattr(head_module, "MAX_LINE_BYTES", 4 << 20)
    bomb = zstd.compress(bytes(1 << 28))
    assert len(bomb) < 100_000
    sink = io.BytesIO()
    head = Head(HeadLimits(max_documents=1), sink, "bomb")
    with pytest.raises(DataError, match="bomb:1: a line of more than 4 MiB"):
        head.feed(bomb + bytes(head_module.STEP_BYTES))
    assert head._line_size < 6 << 20


@pytest.mark.parametrize("field", ["max_bytes", "max_documents"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_below_one_are_refused(field, value):
    option = field.replace("_", "-")
    with pytest.raises(ConfigError, match=f"--{option} must be at least 1, got {value}$"):
        HeadLimits(**{field: value})


def test_limits_are_spelt_and_true_when_there_are_any():
    assert not HeadLimits()
    assert HeadLimits(max_bytes=5 * 10**8, max_documents=1000).spell() == (
        "500 MB of text or 1,000 documents"
    )


@pytest.mark.parametrize(
    ("limits", "first"),
    [
        (HeadLimits(max_bytes=10**9), head_module.FIRST_WINDOW_BYTES),
        (HeadLimits(max_documents=10**6), head_module.FIRST_WINDOW_BYTES),
        (HeadLimits(max_bytes=1_200_000), 400_000),
        (HeadLimits(max_bytes=10**9, max_documents=3), head_module.MIN_WINDOW_BYTES),
    ],
)
def test_a_small_head_does_not_begin_with_a_large_window(limits, first):
    assert Head(limits, io.BytesIO(), "source").window(0) == first


def test_the_next_window_is_guessed_from_what_was_read():
    rng = random.Random(0)
    records = [{"text": rng.randbytes(3000).hex()} for _ in range(2000)]
    data = zstd.compress(b"".join(json.dumps(r).encode() + b"\n" for r in records))
    head = Head(HeadLimits(max_documents=1000), io.BytesIO(), "source")
    assert head.window(0) == head_module.FIRST_WINDOW_BYTES
    done, n_windows = 0, 0
    while not head.is_full:
        window = head.window(done)
        head.feed(data[done : done + window])
        done, n_windows = done + window, n_windows + 1
    assert n_windows <= 5
    assert done < 1.25 * len(data) / 2
