"""Reading corpora: every document once, and a clear word for everything that is not one."""

import gzip
import io
import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_records, write_jsonl
from ladderlm.corpus import documents
from ladderlm.corpus.documents import Document, Reader, ReadingOptions
from ladderlm.corpus.files import expand_sources
from ladderlm.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECORDS = make_records(12, seed=4)
TEXTS = [record["text"] for record in RECORDS]
LINES = [json.dumps(record).encode() + b"\n" for record in RECORDS]
PLAIN = b"".join(LINES)


def read(*sources, **options):
    return list(Reader(sources, ReadingOptions(**options)))


def write(path, content):
    path.write_bytes(content)
    return path


def refused(path, **options):
    """Read a file to its end, expecting an error that names it and a way out; return it."""
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert str(path) in caught.value.what
    assert caught.value.fix
    return caught.value


PACKINGS = {
    "a.jsonl": PLAIN,
    "a.jsonl.zst": zstd.compress(PLAIN),
    "a.jsonl.gz": gzip.compress(PLAIN),
    "three frames.jsonl.zst": b"".join(
        zstd.compress(b"".join(part)) for part in (LINES[:3], LINES[3:4], LINES[4:])
    ),
    "a frame a line.jsonl.zst": b"".join(map(zstd.compress, LINES)),
    "frames that cut lines.jsonl.zst": b"".join(
        zstd.compress(PLAIN[at : at + 97]) for at in range(0, len(PLAIN), 97)
    ),
    "empty frames.jsonl.zst": zstd.compress(b"") + zstd.compress(PLAIN) + zstd.compress(b""),
    "skippable frame.jsonl.zst": b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + zstd.compress(PLAIN),
    "two members.jsonl.gz": gzip.compress(LINES[0]) + gzip.compress(b"".join(LINES[1:])),
    "zstd inside.jsonl": zstd.compress(PLAIN),
    "gzip inside.jsonl.zst": gzip.compress(PLAIN),
    "plain inside.jsonl.zst": PLAIN,
    "no final newline.jsonl": PLAIN[:-1],
    "crlf.jsonl": PLAIN.replace(b"\n", b"\r\n"),
    "mark.jsonl": b"\xef\xbb\xbf" + PLAIN,
    "blank lines.jsonl": b"\n \n" + PLAIN.replace(b"\n", b"\n\n\t\n"),
}


@pytest.mark.parametrize("name", PACKINGS)
def test_every_document_is_read_once_in_order_however_it_is_packed(tmp_path, name):
    """D01, D05, D06: many frames, other compression than the name says, marks, line ends."""
    path = write(tmp_path / name, PACKINGS[name])
    found = read(path)
    assert [document.text for document in found] == TEXTS
    assert [document.subset for document in found] == [
        record["meta"]["pile_set_name"] for record in RECORDS
    ]
    assert {document.source for document in found} == {str(path)}


def test_documents_know_their_line(tmp_path):
    path = write(tmp_path / "a.jsonl", b'\n{"text": "one"}\n\n{"text": "two"}')
    assert read(path) == [
        Document("one", "unknown", str(path), 2),
        Document("two", "unknown", str(path), 4),
    ]


@given(texts=st.lists(st.text(min_size=1), max_size=5), cuts=st.lists(st.integers(0, 400)))
def test_any_texts_survive_any_framing(tmp_path_factory, texts, cuts):
    """D01."""
    whole = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    frames = [zstd.compress(whole[a:b]) for a, b in pairwise(places)]
    path = tmp_path_factory.getbasetemp() / "framed.jsonl.zst"
    path.write_bytes(b"".join(frames) or zstd.compress(b""))
    assert [document.text for document in read(path)] == texts


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a frame a line.jsonl.zst"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_cut_zstd_file_is_never_a_shorter_corpus(tmp_path, name, skip_bad):
    """D02: 200 cuts, inside frames and inside their headers.

    Only a cut on the border of two frames cannot be seen, since what is left is a whole file.
    """
    whole = PACKINGS[name]
    borders = set()
    if name != "a.jsonl.zst":
        sizes = [len(zstd.compress(line)) for line in LINES]
        borders = {sum(sizes[:i]) for i in range(1, len(sizes))}
    cuts = set(range(20)) | set(range(0, len(whole), max(len(whole) // 200, 1)))
    for cut in sorted(cuts | {len(whole) - n for n in range(1, 10)}):
        path = write(tmp_path / "cut.jsonl.zst", whole[:cut])
        if cut in borders:
            assert [d.text for d in read(path)] == TEXTS[: sorted(borders).index(cut) + 1]
        else:
            refused(path, skip_bad=skip_bad)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_cut_gzip_file_is_never_a_shorter_corpus(tmp_path, skip_bad):
    """D02, for the other compression."""
    whole = PACKINGS["a.jsonl.gz"]
    for cut in [*range(20), *range(20, len(whole), 37), len(whole) - 1]:
        refused(write(tmp_path / "cut.jsonl.gz", whole[:cut]), skip_bad=skip_bad)


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz", "a.txt.zst", "a.txt.gz"])
def test_damaged_compression_is_refused_by_name(tmp_path, name):
    """D02: a changed byte in the stream, and rubbish behind it."""
    options = {zstd.CompressionParameter.checksum_flag: 1}
    whole = zstd.compress(PLAIN, options=options) if "zst" in name else gzip.compress(PLAIN)
    for at in (len(whole) // 3, len(whole) // 2, len(whole) - 2):
        damaged = whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
        refused(write(tmp_path / name, damaged))
    refused(write(tmp_path / name, whole + b"rubbish"))
    refused(write(tmp_path / name, whole[: len(whole) // 2]))


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz", "a.txt.zst", "a.txt.gz"])
def test_an_empty_compressed_file_is_refused_and_an_empty_plain_one_is_empty(tmp_path, name):
    """D05: a download that never began."""
    refused(write(tmp_path / name, b""))
    assert read(write(tmp_path / "a.jsonl", b"")) == []


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><html>404</html>\n", b"\xef\xbb\xbf\n <html>", b"<?xml version='1'?>"]
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
def test_a_web_page_is_recognised(tmp_path, page, name):
    """D05: what a mirror that is gone answers, with and without --skip-bad."""
    for skip_bad in (False, True):
        error = refused(write(tmp_path / name, page), skip_bad=skip_bad)
        assert "HTML" in error.what


GOOD = b'{"text": "fine"}\n'
BAD_RECORDS = {  # content of line 2 -> (column or None, reason it is counted under)
    b'{"text": "a" "b"}': (14, "not JSON"),
    b'{"text": "never ends}': (22, "not JSON"),
    b'{"text": "a",}': (None, "not JSON"),
    b'{"text": "a", "x": NaN}': (None, "not JSON"),
    b'{"text": "a", "x": -Infinity}': (None, "not JSON"),
    b'{"text": "a", "x": ' + b"1" * 5000 + b"}": (None, None),
    b'{"text": "a"}{"text": "b"}': (14, "not JSON"),
    b'{"text": "a\x00b"}': (None, "not JSON"),
    b"\x00": (None, "not JSON"),
    b"just words": (1, "not JSON"),
    b"[" * 100_000: (None, "not JSON"),
    b'{"a":' * 100_000: (None, "not JSON"),
    b'{"text": "\xff\xfe"}': (None, "not UTF-8"),
    b'{"text": "\xed\xa0\x80"}': (None, "not UTF-8"),
    '{"text": "wide"}'.encode("utf-16-be"): (None, None),
    '{"text": "wide"}'.encode("utf-32-le"): (None, None),
    b'{"text": "\\ud800"}': (None, "lone surrogate"),
    b'{"text": "ok \\udfff ok"}': (None, "lone surrogate"),
    b'{"meta": {"pile_set_name": "a"}}': (None, "no text"),
    b'{"text": null}': (None, "no text"),
    b'{"text": 5}': (None, "no text"),
    b'{"text": ["a"]}': (None, "no text"),
    b'{"text": {"text": "a"}}': (None, "no text"),
    b'["text", "a"]': (None, "no text"),
    b'"text"': (None, "no text"),
    b"null": (None, "no text"),
    b"17": (None, "no text"),
}


@pytest.mark.parametrize("bad", BAD_RECORDS, ids=[repr(line)[:36] for line in BAD_RECORDS])
def test_a_bad_record_is_named_with_its_line_or_left_out_and_counted(tmp_path, bad):
    """D06, D08: never skipped in silence, never read as another text."""
    column, reason = BAD_RECORDS[bad]
    path = write(tmp_path / "a.jsonl", GOOD + bad + b"\n" + GOOD)
    error = refused(path)
    assert f"{path}:2" in error.what
    assert "--skip-bad" in error.fix
    assert "line 1" not in error.what  # the parser's own count starts anew with each record
    if column is not None:
        assert f"{path}:2:{column}: " in error.what
    reader = Reader([path], ReadingOptions(skip_bad=True))
    assert [(d.text, d.line) for d in reader] == [("fine", 1), ("fine", 3)]
    (counted,) = reader.skipped.items()
    assert counted[1] == 1
    assert reason in (None, counted[0])


def test_a_huge_number_elsewhere_in_a_record_stops_nothing_else(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "a", "x": 123456789012345678901234567890}\n')
    assert [document.text for document in read(path)] == ["a"]


def test_a_surrogate_pair_and_escapes_are_their_characters(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "\\ud83e\\ude9c\\u0000\\n"}\n')
    assert read(path)[0].text == "\U0001fa9c\x00\n"


def test_an_empty_text_is_counted_and_never_an_error(tmp_path):
    """D08: there is nothing to train on and nothing to score."""
    reader = Reader([write(tmp_path / "a.jsonl", b'{"text": ""}\n' + GOOD + b'{"text": ""}\n')])
    assert [document.text for document in reader] == ["fine"]
    assert reader.skipped == {"empty text": 2}
    reader = Reader([write(tmp_path / "a.txt", b"")])
    assert list(reader) == []
    assert reader.skipped == {"empty text": 1}


@pytest.mark.parametrize(
    "meta",
    [
        b"{}",
        b"null",
        b"5",
        b'"Code"',
        b"[]",
        b'{"pile_set_name": null}',
        b'{"pile_set_name": 7}',
        b'{"pile_set_name": ""}',
        b'{"pile_set_name": ["Code"]}',
        b'{"name": "Code"}',
    ],
)
def test_a_record_without_a_usable_subset_is_kept_as_unknown(tmp_path, meta):
    """D08: counted apart, not dropped."""
    path = write(tmp_path / "a.jsonl", b'{"text": "a", "meta": ' + meta + b"}\n")
    assert [(d.text, d.subset) for d in read(path)] == [("a", "unknown")]


def test_other_keys_are_found_by_their_dotted_place(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"doc": {"body": "a"}, "lang": "de", "text": "no"}\n')
    (found,) = read(path, text_key="doc.body", subset_key="lang")
    assert (found.text, found.subset) == ("a", "de")
    assert "'doc.title' is missing" in refused(path, text_key="doc.title").what
    assert "'doc' is a dict" in refused(path, text_key="doc").what


@pytest.mark.parametrize("pack", [bytes, zstd.compress, gzip.compress])
def test_a_text_file_is_one_document(tmp_path, pack):
    name = "a.txt" if pack is bytes else "a.txt.zst"
    path = write(tmp_path / name, pack("line 1\n\nline 3 é\n".encode()))
    assert read(path) == [Document("line 1\n\nline 3 é\n", "unknown", str(path), 0)]


def test_a_text_file_that_is_not_utf8_is_named_with_the_byte(tmp_path):
    path = write(tmp_path / "a.txt", b"abc\xff")
    assert "byte 3 is not UTF-8" in refused(path).what
    reader = Reader([path], ReadingOptions(skip_bad=True))
    assert list(reader) == []
    assert reader.skipped == {"not UTF-8": 1}


def test_a_line_or_text_past_the_limit_is_refused_even_with_skip_bad(tmp_path, monkeypatch):
    """D04, D09: memory stays bounded, whatever a frame expands to."""
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 1000)
    long = json.dumps({"text": "x" * 2000}).encode()
    for name, content in (
        ("a.jsonl", GOOD + long),
        ("a.jsonl.zst", zstd.compress(GOOD + long)),
        ("a.jsonl.gz", gzip.compress(GOOD + long)),
    ):
        path = write(tmp_path / name, content)
        assert f"{path}:2: a line of more than" in refused(path, skip_bad=True).what
    refused(write(tmp_path / "a.txt", b"x" * 1001))
    assert len(read(write(tmp_path / "b.txt", b"x" * 1000))) == 1


def test_a_bomb_of_one_line_is_refused_in_little_memory(tmp_path, monkeypatch, child_environment):
    """D04: 64 KiB of zstd that hold a line of 2 GiB, read in 1 GiB of memory."""
    compressor = zstd.ZstdCompressor(level=1)
    buffer = io.BytesIO()
    piece = bytes(1 << 24)
    buffer.write(compressor.compress(b'{"text": "'))
    for _ in range(128):
        buffer.write(compressor.compress(piece))
    buffer.write(compressor.flush())
    path = write(tmp_path / "bomb.jsonl.zst", buffer.getvalue())
    assert path.stat().st_size < 1 << 20
    code = """
import resource, sys
from ladderlm.corpus.documents import Reader
from ladderlm.errors import DataError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    list(Reader([sys.argv[1]]))
except DataError as error:
    print(error.what)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=child_environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout == f"{path}:1: a line of more than 256 MiB\n", done.stderr[-2000:]


def test_standard_input_is_read_whatever_its_packing(child_environment):
    code = """
import json
from ladderlm.corpus.documents import Reader
print(json.dumps([[d.text, d.source, d.line] for d in Reader(["-"])]))
"""
    for content in (PLAIN, zstd.compress(PLAIN), gzip.compress(PLAIN)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=content,
            env=child_environment,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert [text for text, _, _ in found] == TEXTS
        assert found[2][1:] == ["<stdin>", 3]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", RECORDS[2:4])
    write_jsonl(tmp_path / "a/z.jsonl", RECORDS[:2])
    write(tmp_path / "c.txt", b"text")
    for other in ("readme.md", "x.json", ".tmp-1-d.jsonl.partial"):
        write(tmp_path / other, b"<not read>")
    (tmp_path / "empty.jsonl").mkdir()
    assert expand_sources([tmp_path]) == [tmp_path / n for n in ("a/z.jsonl", "b.jsonl", "c.txt")]
    assert [document.text for document in read(tmp_path)] == [*TEXTS[:4], "text"]


def test_sources_that_are_not_there_are_refused_before_anything_is_read(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "none"))):
        Reader([tmp_path / "none"])
    with pytest.raises(DataError, match=r"holds no corpus file"):
        Reader([tmp_path / "empty"])


def test_reading_twice_gives_the_same_documents(tmp_path):
    path = write(tmp_path / "a.jsonl", PLAIN)
    reader = Reader([path, path])
    assert list(reader) == list(reader)
    assert len(list(reader)) == 2 * len(RECORDS)


@pytest.mark.parametrize("bad", BAD_RECORDS, ids=[repr(line)[:36] for line in BAD_RECORDS])
def test_the_slow_parser_judges_as_the_fast_one(tmp_path, monkeypatch, bad):
    """D06: what counts as a document does not depend on which parser is installed."""
    path = write(tmp_path / "a.jsonl", GOOD + bad + b"\n" + PLAIN)
    fast = Reader([path], ReadingOptions(skip_bad=True))
    expected = list(fast)
    monkeypatch.setitem(sys.modules, "orjson", None)
    slow = Reader([path], ReadingOptions(skip_bad=True))
    assert list(slow) == expected
    assert slow.skipped == fast.skipped
