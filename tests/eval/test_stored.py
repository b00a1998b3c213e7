"""Evaluations on disk: what comes back, and when an old one is used again."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ladderlm.errors import DataError
from ladderlm.eval.config import Policy
from ladderlm.eval.stored import evaluation_key, find_evaluation, load_losses, save_evaluation
from ladderlm.eval.subsets import summarise
from reference.losses import NAMES, make_losses

POLICY = Policy(context=8, stride=4)


def key_of(weights="a" * 64, fingerprint="b" * 64, split="val", policy=POLICY):
    return evaluation_key(weights, SimpleNamespace(name=split, fingerprint=fingerprint), policy)


@pytest.mark.parametrize("hashed", [True, False])
def test_losses_come_back_from_their_file_unchanged(hashed, tmp_path):
    losses = make_losses(hashed=hashed)
    said = save_evaluation(tmp_path / "own", losses, key_of(), {"step": 3})
    found = load_losses(tmp_path / "own.npz")
    assert found.subset_names == NAMES
    names = ["document_ids", "subset_ids", "n_bytes", "n_tokens", "nats", "eos_nats"]
    for name in names + ["text_hashes"] * hashed:
        a, b = getattr(found, name), getattr(losses, name)
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    assert (found.text_hashes is None) != hashed
    beside = json.loads((tmp_path / "own.json").read_text())
    assert beside == said
    assert beside["step"] == 3
    assert beside["policy"] == {"context": 8, "stride": 4, "n_documents": None}
    summary = summarise(losses)
    assert {key: beside[key] for key in summary} == summary


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "text", "other arrays"])
def test_a_damaged_file_of_losses_is_refused_by_name_and_not_used_again(damage, tmp_path):
    path = tmp_path / "own.npz"
    save_evaluation(tmp_path / "own", make_losses(hashed=True), key_of(), {})
    assert find_evaluation(tmp_path, key_of()) is not None
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other arrays":
        np.savez(path, something=np.zeros(3))
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"<html>"}[damage])
    with pytest.raises(DataError, match=r"own\.npz"):
        load_losses(path)
    assert find_evaluation(tmp_path, key_of()) is None


def test_an_evaluation_is_found_by_weights_data_and_policy_alone(tmp_path):
    save_evaluation(tmp_path / "any name", make_losses(hashed=True), key_of(), {"step": 3})
    found = find_evaluation(tmp_path, key_of())
    assert found.path == tmp_path / "any name.json"
    assert found.extra["step"] == 3
    assert found.losses.nats.tolist() == make_losses().nats.tolist()
    others = [
        key_of(weights="c" * 64),
        key_of(fingerprint="c" * 64),
        key_of(split="test"),
        key_of(policy=replace(POLICY, stride=8)),
        key_of(policy=replace(POLICY, n_documents=30)),
        key_of() | {"meter_version": 0},
    ]
    for other in others:
        assert find_evaluation(tmp_path, other) is None
    assert find_evaluation(tmp_path / "nowhere", key_of()) is None


def test_an_evaluation_without_hashes_of_its_texts_is_not_used_again(tmp_path):
    """It could not be compared with another."""
    save_evaluation(tmp_path / "old", make_losses(), key_of(), {})
    assert find_evaluation(tmp_path, key_of()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": 3}', "key only"])
def test_foreign_and_torn_json_files_are_passed_over(text, tmp_path):
    if text == "key only":
        text = json.dumps({"key": key_of()})
    (tmp_path / "a.json").write_text(text)
    assert find_evaluation(tmp_path, key_of()) is None
    save_evaluation(tmp_path / "b", make_losses(hashed=True), key_of(), {})
    assert find_evaluation(tmp_path, key_of()).path.name == "b.json"
