"""`ladderlm doctor`: what this machine has."""

import platform

import torch


def test_versions_and_hardware_are_told(ladderlm):
    found = ladderlm("doctor", "--json")
    assert found.code == 0
    assert found.json["versions"]["torch"] == torch.__version__
    assert found.json["python"] == platform.python_version()
    assert found.json["free_disk_bytes"] > 0
    text = ladderlm("doctor").out
    assert torch.__version__ in text
    assert "free disk" in text


def test_missing_parts_are_named_with_how_to_install_them(ladderlm):
    parts = ladderlm("doctor", "--json").json["optional_parts"]
    text = ladderlm("doctor").out
    for part, present in parts.items():
        assert (f"pip install 'ladderlm[{part}]'" in text) is not present


def test_nothing_else_is_taken(ladderlm):
    said = ladderlm("doctor", "--jsn")
    assert said.code == 2
    assert "--json" in said.err
