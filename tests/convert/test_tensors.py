"""Headers of safetensors files: honest ones read, all others refused, fast and in little memory."""

import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ladderlm.convert.tensors import Stored, inside, read_safetensors, stream_safetensors
from ladderlm.errors import CheckpointError
from ladderlm.files import publish_stream

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def craft(path: Path, header, n_data: int = 8, n_header: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if n_header is None else n_header
    path.write_bytes(length.to_bytes(8, "little") + text + bytes(n_data))
    return path


def table(**changes):
    return {"a": GOOD | changes}


HOSTILE = {
    "a header longer than the file": {"header": table(), "n_header": 10**6},
    "a header of 2^63 bytes": {"header": table(), "n_header": 2**63},
    "a header of 100 MB": {"header": b"{" + b" " * 100_000_000 + b"}"},
    "a header nested 10^6 deep": {"header": b"[" * 1_000_000},
    "a header that is no JSON": {"header": b"\xff\xfe{"},
    "a header that is a list": {"header": [GOOD]},
    "an overlap": {"header": {"a": GOOD, "b": GOOD}},
    "a hole": {"header": table(data_offsets=[8, 16]), "n_data": 16},
    "bytes behind the last tensor": {"header": table(), "n_data": 30},
    "a tensor past the end": {"header": table(), "n_data": 4},
    "a duplicate key": {"header": b'{"a":%b,"a":%b}' % ((json.dumps(GOOD).encode(),) * 2)},
    "a shape that overflows": {"header": table(shape=[2**32, 2**32])},
    "a shape beyond 64 bits": {"header": table(shape=[2**70])},
    "a negative shape": {"header": table(shape=[-2])},
    "a shape of fractions": {"header": table(shape=[2.0])},
    "a shape of truths": {"header": table(shape=[True], data_offsets=[0, 4]), "n_data": 4},
    "offsets in reverse": {"header": table(data_offsets=[8, 0])},
    "an unknown dtype": {"header": table(dtype="F128")},
    "a dtype that is a list": {"header": table(dtype=["F32"])},
    "no place": {"header": {"a": {"dtype": "F32", "shape": [2]}}},
    "an empty file": {"header": b"", "n_data": 0, "n_header": 0},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_is_refused_at_once_and_in_little_memory(name, tmp_path):
    """I03."""
    path = craft(tmp_path / "model.safetensors", **HOSTILE[name])
    tracemalloc.start()
    begin = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(path)
    seconds, (_, peak) = time.monotonic() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(path) in caught.value.what
    assert seconds < 1
    assert peak < 200e6


def test_a_file_that_is_a_zip_too_is_refused(tmp_path):
    """I03: a second format's directory hides behind the tensors."""
    path = craft(tmp_path / "model.safetensors", table())
    with path.open("ab") as stream:
        stream.write(b"PK\x05\x06" + bytes(18))
    with pytest.raises(CheckpointError, match="its tensors end"):
        read_safetensors(path)


def test_honest_files_are_read_and_written_as_the_library_does(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "b": torch.randn(3, 4, generator=generator),
        "a": torch.randn(5, generator=generator).bfloat16(),
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5).half(),
    }
    save_file(tensors, tmp_path / "theirs.safetensors")
    layout = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    with publish_stream(tmp_path / "ours.safetensors") as stream:
        stream_safetensors(stream, layout, lambda name: tensors[name])
    again = load_file(tmp_path / "ours.safetensors")
    for path in ("theirs.safetensors", "ours.safetensors"):
        stored = read_safetensors(tmp_path / path)
        assert stored.keys() == tensors.keys() == again.keys()
        for name, tensor in tensors.items():
            assert torch.equal(stored[name].read(), tensor)
            assert torch.equal(again[name], tensor)


def test_a_tensor_of_a_file_that_shrank_is_an_error(tmp_path):
    save_file({"a": torch.ones(100)}, tmp_path / "x.safetensors")
    stored = read_safetensors(tmp_path / "x.safetensors")["a"]
    os.truncate(tmp_path / "x.safetensors", 300)
    with pytest.raises(CheckpointError, match="cut short"):
        stored.read()


def test_strided_tensors_are_read_in_order(tmp_path):
    (tmp_path / "raw").write_bytes(torch.arange(12).float().numpy().tobytes())
    stored = Stored(tmp_path / "raw", 4, torch.float32, (2, 3), (1, 3))
    assert torch.equal(stored.read(), torch.tensor([[1.0, 4, 7], [2, 5, 8]]))


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "..", "", "https://host/x", "file:x", "a\\b", "x\0", None, 7],
)
def test_names_that_leave_the_folder_are_refused(name, tmp_path):
    """I06."""
    with pytest.raises(CheckpointError):
        inside(tmp_path, name)


def test_links_lead_to_the_folder_or_the_blobs_of_its_cache_only(tmp_path):
    """I06: a shard that is a symbolic link; the cache of the hub is made of links."""
    (tmp_path / "secret").write_text("x")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/abc").write_text("x")
    folder = tmp_path / "snapshots/main"
    folder.mkdir(parents=True)
    (folder / "good").symlink_to("../../blobs/abc")
    (folder / "bad").symlink_to("../../secret")
    assert inside(folder, "good").read_text() == "x"
    with pytest.raises(CheckpointError, match="leads out"):
        inside(folder, "bad")
