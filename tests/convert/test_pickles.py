"""Pickle files: places of tensors, and nothing of what else they hold."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from ladderlm.convert.pickles import index_file, index_pickles
from ladderlm.errors import CheckpointError


class Canary:
    """Runs code when it is unpickled by anything that would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_does_not_run_it(tmp_path):
    """I01: neither in the parent nor in the child that looks at the file."""
    path = tmp_path / "consolidated.00.pth"
    torch.save({"a": torch.ones(2), "b": Canary(tmp_path / "canary")}, path)
    with pytest.raises(CheckpointError, match="safetensors") as caught:
        index_pickles([path])
    assert str(path) in caught.value.what
    assert not (tmp_path / "canary").exists()
    torch.load(path, weights_only=False)  # the payload is a live one
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", ["bare", "nested", "list", "empty", "text", "old"])
def test_files_with_anything_but_tensors_are_refused(kind, tmp_path):
    """I01."""
    path = tmp_path / "x.pth"
    if kind == "bare":
        path.write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    elif kind == "nested":
        torch.save({"model": {"a": torch.ones(2)}}, path)
    elif kind == "list":
        torch.save([torch.ones(2)], path)
    elif kind == "old":
        torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(b"" if kind == "empty" else b"<html>404</html>")
    with pytest.raises(Exception, match=r".+"):
        index_file(str(path))
    assert not (tmp_path / "canary").exists()


def test_places_are_those_of_the_bytes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 8, generator=generator)
    state = OrderedDict(
        a=whole,
        view=whole[2:4, 1:5],  # shares storage, is not contiguous
        turned=torch.randn(3, 4, generator=generator).half().T,
        parameter=torch.nn.Parameter(torch.randn(5, generator=generator).bfloat16()),
        none=torch.zeros(0, 2),
    )
    torch.save(state, tmp_path / "x.pth")
    (found,) = index_pickles([tmp_path / "x.pth"])
    assert list(found) == list(state)
    for name, stored in found.items():
        assert torch.equal(stored.read(), state[name].detach()), name
