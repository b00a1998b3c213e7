"""The denominator is the raw text: index, tokens and manifest must tell one story."""

import hashlib
import json

import numpy as np
import pytest

from builders import write_jsonl
from ladderlm.data.shards import open_data
from ladderlm.errors import DataError
from ladderlm.eval.documents import check_split, hash_texts, known_texts
from ladderlm.prepare.prepare import PrepareConfig, prepare
from ladderlm.tokenizer.load import load_tokenizer

TEXTS = ["plain", "</s> <|end_of_text|>", "caf\u00e9 \U0001f389", " ", "x" * 500, "\x00\r\n"]


@pytest.fixture
def folder(tiny_tokenizer_folder, tmp_path):
    """Prepared data of a few hostile texts."""
    records = [
        {"text": text, "meta": {"pile_set_name": "ab"[i % 2]}} for i, text in enumerate(TEXTS)
    ]
    source = write_jsonl(tmp_path / "corpus.jsonl", records)
    out = tmp_path / "data"
    tokenizer = str(tiny_tokenizer_folder)
    prepare(PrepareConfig(sources=(str(source),), tokenizer=tokenizer, out=str(out), split="val"))
    return out


def opened(folder):
    data = open_data(folder)
    return data, data.split("val", verify=False), load_tokenizer(data.tokenizer_folder)


def test_every_text_has_the_hash_of_its_raw_bytes(folder):
    """D10: control strings in a text are text."""
    data, split, tokenizer = opened(folder)
    check_split(split, data.manifest["splits"]["val"])
    hashes = hash_texts(split, np.arange(len(TEXTS)), tokenizer, known_texts(data, split))
    raw = [text.encode("utf-8") for text in TEXTS]
    assert hashes.tolist() == [
        int.from_bytes(hashlib.sha256(text).digest()[:8], "little") for text in raw
    ]
    some = hash_texts(split, np.array([4, 0]), tokenizer)
    assert some.tolist() == [hashes[4], hashes[0]]


def change_token(folder, place, to):
    """Write another id into the shard; the caller opens it without checking its hash."""
    path = folder / "val-00000.bin"
    tokens = np.fromfile(path, "<u2")
    tokens[place] = to
    path.write_bytes(tokens.tobytes())


def test_a_token_that_stands_for_another_text_of_the_same_length_is_found(folder):
    data, split, tokenizer = opened(folder)
    place = int(split.offsets[5]) + 1  # the NUL of the last text, a token of its own
    assert tokenizer.decode_bytes(split.tokens(place, place + 1).tolist()) == b"\x00"
    change_token(folder, place, tokenizer.encode("\x01")[0])
    with pytest.raises(DataError, match="document 5 of val: its tokens stand for another text"):
        hash_texts(split, np.arange(6), tokenizer, known_texts(data, split))


@pytest.mark.parametrize("what", ["a byte more", "a byte less"])
def test_an_index_that_counts_other_bytes_than_the_tokens_hold_is_found(what, folder):
    data, split, tokenizer = opened(folder)
    split.n_bytes[2] += 1 if what == "a byte more" else -1
    with pytest.raises(DataError, match="document 2 of val: its tokens stand for 10 bytes"):
        hash_texts(split, np.arange(6), tokenizer)
    with pytest.raises(DataError, match=r"the index gives the split \(documents, bytes\)"):
        check_split(split, data.manifest["splits"]["val"])


def test_bytes_moved_from_one_subset_to_another_are_found(folder):
    data, split, _ = opened(folder)
    split.n_bytes[0] += 1
    split.n_bytes[1] -= 1
    with pytest.raises(DataError, match="subset 'a'"):
        check_split(split, data.manifest["splits"]["val"])


@pytest.mark.parametrize("place", ["bos", "inside", "eos"])
def test_a_control_id_where_none_belongs_is_found(place, folder):
    _, split, tokenizer = opened(folder)
    begin, end = (int(split.offsets[i]) for i in (4, 5))
    at = {"bos": begin, "inside": begin + 1, "eos": end - 1}[place]
    change_token(folder, at, tokenizer.eos_id if place != "eos" else 5)
    _, split, _ = opened(folder)
    with pytest.raises(DataError, match="document 4 of val is not BOS, a text without control"):
        hash_texts(split, np.arange(6), tokenizer)


def test_a_damaged_list_of_texts_is_named(folder):
    entry = json.loads((folder / "manifest.json").read_text())["splits"]["val"]["text_hashes"]
    file = entry.get("exact", entry)["file"]
    (folder / file).write_bytes(b"<html>")
    data, split, _ = opened(folder)
    with pytest.raises(DataError, match=file):
        known_texts(data, split)


def test_data_without_a_list_of_texts_is_proven_by_its_bytes_alone(folder):
    data, split, tokenizer = opened(folder)
    del data.manifest["splits"]["val"]["text_hashes"]
    assert known_texts(data, split) is None
    assert len(hash_texts(split, np.arange(6), tokenizer, None)) == 6


def test_the_proof_can_be_stopped(folder):
    """C05."""
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    _, split, tokenizer = opened(folder)
    with pytest.raises(KeyboardInterrupt):
        hash_texts(split, np.arange(6), tokenizer, check=check)
