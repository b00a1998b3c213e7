"""The table of sources, and what --source means."""

import re

import pytest

from ladderlm.corpus.pile_sources import PUBLISHED, SOURCES, file_stems, places_for, read_list
from ladderlm.errors import DataError
from mirror import Answer, serve

A, B = "a1" * 32, "B2" * 32


def test_every_split_has_a_source_and_each_says_how_it_differs():
    assert {split for source in SOURCES.values() for split in source.splits} == {
        "train",
        "val",
        "test",
    }
    assert all(source.note and source.repository.count("/") == 1 for source in SOURCES.values())
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in PUBLISHED.values())
    assert len(file_stems("train", tuple(range(30)))) == 30


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_original_bytes_are_tried_before_other_files_and_other_corpora_last(split):
    places = places_for(split, None)
    ranks = [
        (place.corpus != "the Pile", not place.suffixes[0].endswith(".zst")) for place in places
    ]
    assert ranks == sorted(ranks)
    assert len({place.base for place in places}) == len(places)


def test_a_list_names_files_as_sha256sum_writes_them(tmp_path):
    lines = [
        f"{A}  ./train/00.jsonl.zst",
        f"{B} *val.jsonl.zst",
        f"{A[:-1]}  short",
        "# note",
        f"{A}  name with spaces",
        "",
    ]
    (tmp_path / "SHA256SUMS.txt").write_bytes("\r\n".join(lines).encode() + b"\xff\xfe")
    assert read_list(tmp_path) == {"train/00.jsonl.zst": A, "val.jsonl.zst": B.lower()}
    (tmp_path / "SHA256SUMS.txt").unlink()
    assert read_list(tmp_path) == {}
    (tmp_path / "SHA256SUMS.txt").mkdir()
    assert read_list(tmp_path) == {}


@pytest.mark.parametrize(
    ("listed", "digest"),
    [
        ({"train/00.jsonl.zst": A, "mini/train/00.jsonl.zst": B}, A),
        ({"pile/train/00.jsonl.zst": A, "pile/train/01.jsonl.zst": B}, A),
        ({"00.jsonl.zst": A, "01.jsonl.zst": B}, A),
        ({"a/train/00.jsonl.zst": A, "b/train/00.jsonl.zst": B}, None),
        ({"other/00.jsonl.zst": A}, None),
    ],
)
def test_a_list_may_name_files_from_higher_up_but_never_two_at_once(listed, digest):
    place = places_for("train", "pile-full")[0]
    found = place.published("train/00.jsonl.zst", listed)
    assert found == (None if digest is None else (digest, "SHA256SUMS.txt of the source"))


def test_a_list_that_cannot_be_had_is_no_list(monkeypatch):
    """N06, N08."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as mirror:
        path = "/SHA256SUMS.txt"
        mirror.files[path] = f"{A}  val.jsonl.zst\n".encode()
        assert read_list(mirror.url) == {"val.jsonl.zst": A}
        for answer in (
            Answer(status=404),
            Answer(status=503),
            Answer(status=200, body=b"<html>"),
            Answer(status=302, headers={"Location": "file:///etc/passwd"}),
        ):
            mirror.at[path] = answer
            assert read_list(mirror.url) == {}
        url = mirror.url
    assert read_list(url) == {}
    assert read_list("http://[1") == {}


def test_a_list_without_permission_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "SHA256SUMS.txt").write_text("")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        read_list(tmp_path)
