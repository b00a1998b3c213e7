"""Downloads from a server that cuts, stalls, lies and sends pages; the file is whole or not there.

Chunks are made small here, so that a file of some hundred kilobytes takes many of them.
"""

import hashlib
import http.client
import random
import time

import pytest

from ladderlm.corpus import transfer
from ladderlm.corpus.fetch import download, part_file
from ladderlm.corpus.transfer import MAX_FIRST_TRIES, MAX_TRIES
from ladderlm.corpus.web import Remote
from ladderlm.errors import DataError, LadderError
from mirror import Answer, serve

MAGIC = b"\x28\xb5\x2f\xfd"  # a zstd file begins so
DATA = MAGIC + random.Random(7).randbytes(299_996)
DIGEST = hashlib.sha256(DATA).hexdigest()
PAGE = {"Content-Type": "text/html; charset=utf-8"}


@pytest.fixture
def mirror(monkeypatch):
    """A mirror that holds one file."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1 << 14)
    with serve() as running:
        running.files["/a.zst"] = DATA
        yield running


@pytest.fixture
def waits(monkeypatch):
    """Waiting takes no time; the seconds that were asked for are noted."""
    asked = []
    monkeypatch.setattr(transfer, "_pause", lambda stop, seconds: asked.append(seconds))
    return asked


@pytest.fixture
def get(mirror, tmp_path):
    """Download the mirror's file without pauses."""

    def give(sha256=None, **options):
        url, path = mirror.url + "/a.zst", tmp_path / "got/a.zst"
        known = Remote(n_bytes=None, sha256=sha256, version=None)
        return download(url, path, known, **{"back_off_seconds": 0.0, **options})

    return give


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def part_in(tmp_path, mirror):
    """Return the place of the part of the mirror's file, in a folder that exists."""
    (tmp_path / "got").mkdir()
    return part_file(mirror.url + "/a.zst", tmp_path / "got/a.zst")


def test_a_file_arrives_whole_under_its_name_alone(get, mirror, tmp_path):
    got = get()
    assert got.path.read_bytes() == DATA
    assert (got.n_bytes, got.sha256, got.verified) == (len(DATA), DIGEST, False)
    assert files_in(tmp_path / "got") == ["a.zst"]
    assert mirror.asked == [("/a.zst", None)]


def test_a_known_checksum_is_said_to_be_verified(get):
    assert get(DIGEST).verified


def test_progress_tells_bytes_and_total_and_the_name_is_not_there_before_the_end(get, tmp_path):
    """N07: the final name appears only when the file is whole."""
    seen = []

    def progress(done, total):
        seen.append((done, total))
        assert not (tmp_path / "got/a.zst").exists()
        assert [name.endswith(".part") for name in files_in(tmp_path / "got")] == [True]

    get(progress=progress)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(DATA), len(DATA))
    assert len(seen) > 5
    assert {total for _, total in seen} == {len(DATA)}


def test_a_connection_cut_a_hundred_times_goes_on_where_it_was(get, mirror):
    """N03: byte-equal, resumed and never begun anew."""
    rng = random.Random(3)
    framings = ["length", "chunked"]
    mirror.script.extend(
        Answer(cut=rng.randint(1, 5000), framing=rng.choice(framings)) for _ in range(100)
    )
    assert get(DIGEST).path.read_bytes() == DATA
    assert len(mirror.asked) == 101
    starts = [start or 0 for start in mirror.starts]
    assert starts == sorted(set(starts))


def test_what_came_before_a_reset_is_kept(get, mirror, monkeypatch):
    """N03: less than one chunk arrived when the connection broke."""
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1 << 20)
    mirror.script.append(Answer(cut=50_000, reset=True))
    assert get().path.read_bytes() == DATA
    assert mirror.starts[1] is not None


def test_a_server_that_falls_silent_is_left_and_asked_again(get, mirror, monkeypatch):
    """N03: a stall ends by the time limit, and what had come is kept."""
    monkeypatch.setattr(transfer, "TIMEOUT_SECONDS", 0.2)
    mirror.script.extend([Answer(cut=70_001, stall=True), Answer(cut=5, stall=True)])
    began = time.monotonic()
    assert get().path.read_bytes() == DATA
    assert mirror.starts == [None, 70_001, 70_006]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(status, get, mirror):
    mirror.script.extend([Answer(status=status), Answer(cut=1000), Answer(status=status)])
    assert get().path.read_bytes() == DATA
    assert mirror.starts == [None, None, 1000, 1000]


def test_tries_are_bounded_pauses_double_and_the_bytes_are_kept(get, mirror, waits, tmp_path):
    """N03: bounded retries."""
    mirror.script.append(Answer(cut=4321))
    mirror.always = Answer(status=503)
    with pytest.raises(DataError, match=f"answers 503, {MAX_TRIES} times in a row") as caught:
        get(back_off_seconds=0.5)
    assert len(mirror.asked) == 1 + MAX_TRIES
    assert waits == [0.0] + [0.5 * 2**i for i in range(MAX_TRIES - 1)]
    assert "4,321 bytes are kept" in caught.value.why
    assert "again later" in caught.value.fix
    mirror.always = Answer()
    assert get().path.read_bytes() == DATA
    assert mirror.starts[-1] == 4321


def test_progress_between_failures_begins_the_count_anew(get, mirror, waits):
    for place in range(3):
        mirror.script.extend([Answer(status=500)] * (MAX_TRIES - 1) + [Answer(cut=100 + place)])
    assert get(back_off_seconds=1.0).path.read_bytes() == DATA
    assert max(waits) == 2 ** (MAX_TRIES - 2)


def test_a_server_that_makes_us_begin_anew_for_ever_is_left(get, mirror, waits):
    """N03: bytes that come, are thrown away and come again are no progress."""
    mirror.always = Answer(cut=1000, shift=7)
    with pytest.raises(DataError, match=f"{MAX_TRIES} times in a row"):
        get()
    assert len(mirror.asked) <= 2 * MAX_TRIES


def test_the_pause_that_a_server_asks_for_is_kept_within_bounds(get, mirror, waits):
    """N03: Retry-After in seconds; a date is passed over."""
    asked = ["7", "99999999", "Wed, 21 Oct 2026 07:28:00 GMT"]
    mirror.script.extend(Answer(status=429, headers={"Retry-After": value}) for value in asked)
    get()
    assert waits == [7.0, transfer.MAX_WAIT_SECONDS, 0.0]


def test_waiting_is_said(get, mirror, waits, caplog):
    mirror.script.append(Answer(status=503))
    get(back_off_seconds=9.0)
    assert "answers 503; retrying in 9 s" in caplog.text


def test_a_complete_part_needs_no_byte_more(get, mirror, tmp_path):
    """N03: 416 for what is behind the end."""
    part_in(tmp_path, mirror).write_bytes(DATA)
    assert get().path.read_bytes() == DATA
    assert mirror.starts == [len(DATA)]


@pytest.mark.parametrize("headers", [{}, {"Content-Range": "bytes */*"}])
def test_a_part_that_is_too_long_or_of_unknown_length_is_begun_anew(headers, get, mirror, tmp_path):
    part_in(tmp_path, mirror).write_bytes(DATA + b"more")
    if headers:
        mirror.script.append(Answer(status=416, headers=headers))
    assert get().path.read_bytes() == DATA
    assert mirror.starts == [len(DATA) + 4, None]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(ignores_range=True),
        Answer(ignores_range=True, cut=30_000),
        Answer(shift=-7),
        Answer(shift=7),
        Answer(announces_range=False),
    ],
)
def test_a_server_that_ignores_range_is_read_from_the_start(answer, get, mirror, tmp_path):
    """N01: 200 instead of 206, or another part than was asked for."""
    part_in(tmp_path, mirror).write_bytes(DATA[:100_000])
    mirror.script.append(answer)
    assert get().path.read_bytes() == DATA
    assert mirror.starts[0] == 100_000


def test_a_wrong_checksum_is_refused_and_the_bytes_are_kept_aside(get, mirror, tmp_path):
    """N06: the size is right, one byte is not; an older good file stays."""
    (tmp_path / "got").mkdir()
    (tmp_path / "got/a.zst").write_bytes(b"old")
    wrong = DATA[:1000] + bytes([DATA[1000] ^ 1]) + DATA[1001:]
    mirror.files["/a.zst"] = wrong
    with pytest.raises(DataError, match=f"expected {DIGEST[:16]}") as caught:
        get(DIGEST)
    assert hashlib.sha256(wrong).hexdigest()[:16] in caught.value.what
    assert files_in(tmp_path / "got") == ["a.zst", "a.zst.bad"]
    assert (tmp_path / "got/a.zst.bad").read_bytes() == wrong
    assert (tmp_path / "got/a.zst").read_bytes() == b"old"
    mirror.files["/a.zst"] = DATA
    assert get(DIGEST).path.read_bytes() == DATA


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_file_that_is_not_there_is_not_asked_for_again(status, get, mirror, tmp_path):
    """N08: the message names address, answer and the ways on."""
    mirror.always = Answer(status=status, body=b"gone", headers=PAGE)
    with pytest.raises(DataError, match=f"/a.zst: the server answers {status}") as caught:
        get()
    assert "--source" in caught.value.fix
    assert "by hand" in caught.value.fix
    assert len(mirror.asked) == 1
    assert files_in(tmp_path / "got") == []


def test_a_web_page_is_no_file_and_does_not_cost_the_part(get, mirror, tmp_path):
    """N08: 200 with HTML, as a mirror that is gone or a login page sends."""
    part = part_in(tmp_path, mirror)
    part.write_bytes(DATA[:1000])
    mirror.script.append(Answer(status=200, body=b"<html>log in</html>", headers=PAGE))
    with pytest.raises(DataError, match="a web page, not a file"):
        get()
    assert part.read_bytes() == DATA[:1000]
    assert get().path.read_bytes() == DATA


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_bytes_in_an_encoding_that_was_not_asked_for_are_refused(framing, get, mirror):
    """N04: a server that compresses what it sends."""
    encoded = Answer(headers={"Content-Encoding": "gzip"}, framing=framing)
    mirror.script.append(encoded)
    with pytest.raises(DataError, match="Content-Encoding gzip"):
        get()


def test_an_encoding_that_only_repeats_the_ending_of_the_name_is_no_encoding(get, mirror):
    """N04: some servers describe every .zst file so; the bytes are those of the file."""
    mirror.script.append(Answer(headers={"Content-Encoding": "zstd"}))
    assert get().path.read_bytes() == DATA


def test_a_chunked_answer_without_length_is_taken_when_its_end_was_sent(get, mirror):
    """N04: http.client must raise on a missing last chunk, or a cut would look like the end."""
    mirror.script.extend([Answer(framing="chunked", cut=123_456), Answer(framing="chunked")])
    seen = []
    got = get(progress=lambda done, total: seen.append(total))
    assert got.path.read_bytes() == DATA
    assert mirror.starts == [None, 123_456]
    assert seen[0] is None


def test_an_answer_that_ends_by_closing_is_trusted_only_with_a_checksum(get, mirror, tmp_path):
    """N04: without length and chunks, a cut connection looks like the end of the file."""
    mirror.script.append(Answer(framing="close"))
    with pytest.raises(DataError, match="does not say how long the file is"):
        get()
    mirror.script.append(Answer(framing="close", cut=200_000))
    with pytest.raises(DataError, match="SHA-256"):
        get(DIGEST)
    assert not (tmp_path / "got/a.zst").exists()
    mirror.script.append(Answer(framing="close"))
    assert get(DIGEST).path.read_bytes() == DATA


@pytest.mark.parametrize("length", ["many", "-5", "1e3"])
def test_a_length_that_is_no_number_counts_as_none(length, get, mirror):
    mirror.script.append(Answer(length=length))
    with pytest.raises(DataError, match="does not say how long"):
        get()


def test_a_length_that_is_too_large_is_settled_by_the_server_itself(get, mirror):
    """N04: the rest is asked for, and there is none."""
    mirror.script.append(Answer(length=str(len(DATA) + 10)))
    assert get().path.read_bytes() == DATA
    assert mirror.starts == [None, len(DATA)]


def test_a_length_that_is_too_small_is_found_by_the_checksum(get, mirror, tmp_path):
    """N04: hash decides."""
    mirror.script.append(Answer(length="1000"))
    with pytest.raises(DataError, match="SHA-256"):
        get(DIGEST)
    assert (tmp_path / "got/a.zst.bad").read_bytes() == DATA[:1000]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_empty_file_is_refused(framing, get, mirror, tmp_path):
    mirror.files["/a.zst"] = b""
    mirror.always = Answer(framing=framing)
    with pytest.raises(DataError, match="the file is empty"):
        get()
    assert files_in(tmp_path / "got") == []


def test_a_file_larger_than_the_disk_is_refused_before_a_byte_is_written(get, mirror, tmp_path):
    mirror.script.append(Answer(length=str(10**18)))
    with pytest.raises(LadderError, match="are free"):
        get()
    assert files_in(tmp_path / "got") == []
    assert len(mirror.asked) == 1


def test_bytes_of_two_addresses_never_meet_in_one_part(get, mirror, tmp_path):
    """S1: a second source may hold another file under the same name."""
    other = MAGIC + random.Random(8).randbytes(250_000)
    mirror.files["/b.zst"] = other
    mirror.script.append(Answer(cut=100_000))
    mirror.always = Answer(status=503)
    with pytest.raises(DataError, match="times in a row"):
        get()
    mirror.always = Answer()
    got = download(mirror.url + "/b.zst", tmp_path / "got/a.zst", back_off_seconds=0.0)
    assert got.path.read_bytes() == other
    assert get().path.read_bytes() == DATA
    assert mirror.starts[-1] == 100_000


@pytest.mark.parametrize("url", ["nothing/a", "http://[1/a", "http://127.0.0.1/a b", "http://x/é"])
def test_what_is_no_address_is_refused_at_once(url, tmp_path):
    with pytest.raises(DataError, match="is not a URL"):
        download(url, tmp_path / "a", back_off_seconds=100.0)


def test_a_refused_connection_is_tried_again_and_then_named(tmp_path, waits):
    with serve() as gone:
        url = gone.url + "/a"
    with pytest.raises(DataError, match=r"[Cc]onnection refused, 4 times") as caught:
        download(url, tmp_path / "a")
    assert len(waits) == MAX_FIRST_TRIES - 1
    assert caught.value.why == "no byte has arrived"


def test_an_answer_that_is_not_http_is_tried_again(get, monkeypatch, waits):
    def fail(*_args, **_keywords):
        raise http.client.BadStatusLine("\x16\x03\x01")

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "open_url", fail)
        with pytest.raises(DataError, match="4 times in a row"):
            get()
