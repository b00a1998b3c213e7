"""Prepared data on disk: written and read back, and refused by name once a byte has changed."""

import json
import random
import shutil
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.data import shards
from ladderlm.data.shard_writer import INDEX_DTYPE, SplitWriter
from ladderlm.data.shards import (
    FORMAT_VERSION,
    PreparedData,
    manifest_fingerprint,
    open_data,
    token_dtype,
)
from ladderlm.errors import DataError
from ladderlm.files import sha256_file

BOS, EOS = 318, 319
DOCUMENTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 317), max_size=12).map(lambda ids: [BOS, *ids, EOS]),
        st.integers(0, 2**40),
        st.sampled_from(["a", "b", "é/../c"]),
    ),
    min_size=1,
    max_size=8,
)


def write_split(folder, documents, dtype="<u2", shard_tokens=10, name="train"):
    writer = SplitWriter(folder, name, np.dtype(dtype), shard_tokens)
    for tokens, n_bytes, subset in documents:
        writer.add(np.array(tokens, dtype=np.int64), n_bytes, subset)
    return writer.finish({})


def manifest_of(entries, vocab_size=320, dtype="<u2"):
    manifest = {
        "kind": "ladderlm-data",
        "format_version": FORMAT_VERSION,
        "splits": entries,
        "tokenizer": {
            "fingerprint": "f" * 64,
            "vocab_size": vocab_size,
            "bos_id": BOS,
            "eos_id": EOS,
            "folder": "tokenizer",
        },
        "dtype": dtype,
        "overlap": {},
    }
    return manifest | {"fingerprint": manifest_fingerprint(manifest)}


def publish(folder, manifest):
    """Write a manifest as an attacker would: with its fingerprint made to fit."""
    manifest = manifest | {"fingerprint": manifest_fingerprint(manifest)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@settings(max_examples=25)  # each writes and syncs several files
@given(documents=DOCUMENTS, shard_tokens=st.integers(1, 60), dtype=st.sampled_from(["<u2", "<u4"]))
def test_documents_read_back_as_they_were_written(tmp_path_factory, documents, shard_tokens, dtype):
    folder = tmp_path_factory.mktemp("split")
    entry = write_split(folder, documents, dtype, shard_tokens)
    split = PreparedData(folder, manifest_of({"train": entry}, dtype=dtype)).split("train")
    for i, (tokens, n_bytes, subset) in enumerate(documents):
        assert split.document(i).tolist() == tokens
        assert split.n_bytes[i] == n_bytes
        assert split.subset_names[split.subset_ids[i]] == subset
    everything = list(chain(*(tokens for tokens, _, _ in documents)))
    assert split.n_tokens == len(everything) == entry["n_tokens"]
    for start in range(0, len(everything), 3):
        for stop in {start, start + 1, min(start + 17, len(everything)), len(everything)}:
            assert split.tokens(start, stop).tolist() == everything[start:stop]
    for shard in entry["shards"][:-1]:
        assert shard["n_tokens"] >= shard_tokens  # closed at the first document end past the size


@settings(max_examples=15)
@given(documents=DOCUMENTS, sizes=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_the_tokens_do_not_depend_on_the_size_of_shards(tmp_path_factory, documents, sizes):
    splits = []
    for size in sizes:
        folder = tmp_path_factory.mktemp("split")
        entry = write_split(folder, documents, shard_tokens=size)
        splits.append(PreparedData(folder, manifest_of({"train": entry})).split("train"))
    first, second = splits
    assert first.tokens(0, first.n_tokens).tolist() == second.tokens(0, second.n_tokens).tolist()
    assert (first.offsets == second.offsets).all()


@pytest.fixture
def folder(tmp_path):
    """Two splits in several shards each."""
    rng = random.Random(3)
    entries = {}
    for name, n in (("train", 9), ("val", 3)):
        documents = [
            ([BOS, *(rng.randrange(318) for _ in range(rng.randrange(9))), EOS], i, "ab"[i % 2])
            for i in range(n)
        ]
        entries[name] = write_split(tmp_path / "data", documents, name=name)
    return publish(tmp_path / "data", manifest_of(entries))


def manifest_in(folder):
    return json.loads((folder / "manifest.json").read_text())


def files_of(split):
    return [*[shard["file"] for shard in split["shards"]], split["index"]["file"]]


def test_each_split_opens_with_its_files_checked(folder):
    data = open_data(folder)
    assert data.split_names == ("train", "val")
    assert (data.vocab_size, data.bos_id, data.eos_id) == (320, BOS, EOS)
    assert len(manifest_in(folder)["splits"]["train"]["shards"]) > 2
    assert data.split("train").n_documents == 9
    assert data.split("val").n_documents == 3


def test_a_split_that_is_not_there_is_refused_with_those_that_are(folder):
    with pytest.raises(DataError, match="no split 'test'") as caught:
        open_data(folder).split("test")
    assert "train, val" in caught.value.what


def test_a_flipped_bit_anywhere_in_any_file_is_refused_by_the_name_of_the_file(folder, tmp_path):
    """Mutated shard and index: none accepted silently."""
    entry = manifest_in(folder)["splits"]["train"]
    rng = random.Random(5)
    for name in files_of(entry):
        whole = (folder / name).read_bytes()
        for n in range(8):
            copy = tmp_path / f"{name}-{n}"
            shutil.copytree(folder, copy)
            at = rng.randrange(len(whole))
            flipped = whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
            (copy / name).write_bytes(flipped)
            with pytest.raises(DataError) as caught:
                open_data(copy).split("train")
            assert str(copy / name) in caught.value.what
            assert open_data(copy).split("val").n_documents == 3


@pytest.mark.parametrize("damage", ["cut", "longer", "emptied", "gone", "a link", "a folder"])
def test_a_file_of_another_size_or_kind_is_refused_by_name_even_unverified(
    folder, tmp_path, damage
):
    """D18, D20: sizes and kinds are looked at even where hashes are not."""
    for name in files_of(manifest_in(folder)["splits"]["train"]):
        path = folder / name
        whole = path.read_bytes()
        path.unlink()
        if damage == "cut":
            path.write_bytes(whole[:-1])
        elif damage == "longer":
            path.write_bytes(whole + b"\0")
        elif damage == "emptied":
            path.write_bytes(b"")
        elif damage == "a link":
            (tmp_path / "outside").write_bytes(whole)
            path.symlink_to(tmp_path / "outside")
        elif damage == "a folder":
            path.mkdir()
        for verify in (True, False):
            with pytest.raises(DataError) as caught:
                open_data(folder).split("train", verify=verify)
            assert str(path) in caught.value.what
            assert "prepare the data again" in caught.value.fix
        path.rmdir() if damage == "a folder" else path.unlink(missing_ok=True)
        path.write_bytes(whole)
    assert open_data(folder).split("train").n_documents == 9


def test_a_file_that_shrinks_while_it_is_read_is_an_error(folder):
    """D18: not a SIGBUS, and not fewer tokens."""
    split = open_data(folder).split("train")
    shard = folder / manifest_in(folder)["splits"]["train"]["shards"][-1]["file"]
    with open(shard, "r+b") as stream:
        stream.truncate(shard.stat().st_size - 2)
    with pytest.raises(DataError, match="ends 2 bytes too early"):
        split.document(8)
    assert split.document(0)[0] == BOS


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 10**9), (-3, -1)])
def test_tokens_outside_the_split_are_refused(folder, start, stop):
    with pytest.raises(DataError, match="tokens"):
        open_data(folder).split("train").tokens(start, stop)


@pytest.mark.parametrize(
    "name", ["../secret.bin", "/etc/hostname", "sub/x.bin", "..", ".", "", "a/../train-00000.bin"]
)
@pytest.mark.parametrize("place", ["shard", "index"])
def test_a_manifest_that_names_files_elsewhere_is_refused(folder, tmp_path, name, place):
    """D20: nothing outside the folder is opened, even if size and hash fit."""
    (tmp_path / "secret.bin").write_bytes(b"\1\0\2\0")
    (folder / "sub").mkdir()
    (folder / "sub/x.bin").write_bytes(b"\1\0\2\0")
    manifest = manifest_in(folder)
    entry = manifest["splits"]["train"]
    file = entry["shards"][0] if place == "shard" else entry["index"]
    file |= {"file": name, "n_bytes": 4, "sha256": sha256_file(tmp_path / "secret.bin")}
    publish(folder, manifest)
    with pytest.raises(DataError, match="damaged"):
        open_data(folder).split("train")


def test_no_changed_byte_of_the_manifest_goes_unseen(folder):
    """Mutated manifest: none accepted silently, no traceback."""
    path = folder / "manifest.json"
    whole = path.read_bytes()
    rng = random.Random(11)
    for _ in range(300):
        at = rng.randrange(len(whole))
        damaged = whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
        path.write_bytes(damaged)
        try:
            same = json.loads(damaged) == json.loads(whole)
        except ValueError:
            same = False
        if not same:
            with pytest.raises(DataError, match=r"manifest\.json"):
                open_data(folder)
    for cut in range(0, len(whole), 101):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"manifest\.json"):
            open_data(folder)


@pytest.mark.parametrize("value", [[], "x", None, 5, {}])
def test_a_manifest_that_is_none_is_refused(folder, value):
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"manifest\.json"):
        open_data(folder)


def test_a_newer_format_is_refused_with_both_versions(folder):
    """C23."""
    publish(folder, manifest_in(folder) | {"format_version": FORMAT_VERSION + 1})
    with pytest.raises(
        DataError, match=f"data format {FORMAT_VERSION + 1}, this ladderlm reads {FORMAT_VERSION}"
    ):
        open_data(folder)


def test_a_folder_without_manifest_is_no_data(tmp_path):
    with pytest.raises(DataError, match="no prepared data"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    "lie",
    [
        lambda entry: entry.update(n_documents=8),
        lambda entry: entry.update(n_tokens=entry["n_tokens"] + 1),
        lambda entry: entry["shards"][0].update(n_tokens=entry["shards"][0]["n_tokens"] + 1),
        lambda entry: entry["shards"].pop(),
        lambda entry: entry.update(max_token_id=320),
    ],
)
def test_an_index_that_does_not_fit_the_shards_is_refused(folder, lie):
    manifest = manifest_in(folder)
    lie(manifest["splits"]["train"])
    publish(folder, manifest)
    with pytest.raises(DataError, match="damaged"):
        open_data(folder).split("train")


def replace_index(folder, save):
    """Put another index in place, with manifest and hash made to fit."""
    manifest = manifest_in(folder)
    index = manifest["splits"]["train"]["index"]
    path = folder / index["file"]
    with open(path, "wb") as stream:
        save(stream)
    index |= {"n_bytes": path.stat().st_size, "sha256": sha256_file(path)}
    publish(folder, manifest)


class Canary:
    def __reduce__(self):
        return open, ("canary", "w")


@pytest.mark.parametrize(
    "save",
    [
        lambda stream: np.save(stream, np.array([Canary()], dtype=object), allow_pickle=True),
        lambda stream: np.save(stream, np.zeros(9)),
        lambda stream: np.save(stream, np.zeros(9, dtype=INDEX_DTYPE)),
        lambda stream: np.savez(stream, a=np.zeros(9, dtype=INDEX_DTYPE)),
        lambda stream: stream.write(b""),
        lambda stream: stream.write(b"\x93NUMPY\x01\x00"),
        lambda stream: stream.write(b"not numpy at all"),
    ],
    ids=["pickle", "other type", "empty documents", "archive", "empty", "cut", "rubbish"],
)
def test_a_foreign_index_is_refused_and_runs_no_code(folder, tmp_path, monkeypatch, save):
    """I01: an object array in `.npy` is a pickle."""
    monkeypatch.chdir(tmp_path)
    replace_index(folder, save)
    with pytest.raises(DataError, match="damaged"):
        open_data(folder).split("train")
    assert not (tmp_path / "canary").exists()


def test_a_subset_id_without_a_name_is_refused(folder):
    rows = np.load(folder / "train-documents.npy")
    rows["subset"][4] = 7
    replace_index(folder, lambda stream: np.save(stream, rows))
    with pytest.raises(DataError, match="damaged"):
        open_data(folder).split("train")


@pytest.mark.parametrize(
    ("vocab_size", "dtype"),
    [(258, "<u2"), (65_535, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (2**32, "<u4")],
)
def test_the_narrowest_dtype_that_holds_every_id_is_taken(vocab_size, dtype):
    """D12."""
    assert token_dtype(vocab_size) == np.dtype(dtype)
    assert vocab_size - 1 <= np.iinfo(token_dtype(vocab_size)).max


def test_a_vocabulary_beyond_32_bits_is_refused():
    """D12."""
    with pytest.raises(DataError, match="does not fit in 32 bits"):
        token_dtype(2**32 + 1)


@pytest.mark.parametrize("tokens", [[BOS, 65_536, EOS], [BOS, -1, EOS]])
def test_an_id_that_does_not_fit_is_refused_and_never_wrapped(tmp_path, tokens):
    """D12: checked on write."""
    with pytest.raises(DataError, match="does not fit"):
        write_split(tmp_path, [(tokens, 1, "a")])


def test_a_shard_with_an_id_beyond_the_vocabulary_is_refused_when_opened(tmp_path):
    """D12, T17: checked on open, against the vocabulary the manifest names."""
    entry = write_split(tmp_path, [([BOS, 400, EOS], 1, "a")])
    publish(tmp_path, manifest_of({"train": entry}))
    with pytest.raises(DataError, match="token id 400 >= 320"):
        open_data(tmp_path).split("train")


def test_a_key_that_is_another_for_every_document_names_no_subset(tmp_path):
    """D08: refused in words, and before the memory of hours is lost."""
    writer = SplitWriter(tmp_path, "train", np.dtype("<u2"))
    tokens, n = np.array([BOS, EOS]), 65_536
    names = tuple(f"id {i}" for i in range(n))
    twos, ones = np.full(n, 2), np.ones(n, np.int64)
    writer.add_documents(np.tile(tokens, n), twos, ones, np.arange(n), names)
    with pytest.raises(DataError, match="subsets"):
        writer.add(tokens, 1, "one more")


def test_many_shards_are_read_with_few_files_open(tmp_path):
    """X03: a corpus of more shards than a process may open files."""
    documents = [([BOS, i % 318, EOS], 1, "a") for i in range(100)]
    entry = write_split(tmp_path, documents, shard_tokens=1)
    assert len(entry["shards"]) == 100
    split = PreparedData(tmp_path, manifest_of({"train": entry})).split("train")
    rng = random.Random(1)
    for _ in range(500):
        i = rng.randrange(100)
        assert split.document(i).tolist() == documents[i][0]
    assert len(shards._open_files) <= 16
