"""Tasks of lm-eval on a file of one's own, which run without a network."""

import json
from pathlib import Path

import pytest

__all__ = ["RECORDS", "TASKS", "keep_datasets_in", "write_tasks"]

RECORDS = [
    {"q": "the loss of", "choices": [" a batch", " the model", " x"], "label": 1},
    {"q": "def", "choices": [" return", " in", " print"], "label": 0},
    {"q": "step", "choices": [" of", " the", " self"], "label": 2},
]
TASKS = {
    "own_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
    "own_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}}{{choices[0]}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "own_words": {
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def write_tasks(folder: Path) -> Path:
    """Write the tasks as YAML beside their data."""
    folder.mkdir()
    file = folder / "own.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    for name, task in TASKS.items():
        values = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test",
            **task,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(values))  # JSON is YAML
    return folder


def keep_datasets_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the datasets library caches in a folder of the test; skip without lm-eval."""
    pytest.importorskip("lm_eval", reason="needs lm_eval [evals]")
    datasets = pytest.importorskip("datasets", reason="needs lm_eval [evals]")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
