"""Runs that were not made alike, or whose times do not compare, are told apart."""

import json
import shutil

from builders import make_row
from ladderlm.files import publish_json
from ladderlm.study.origins import incomparable_times, mixed_origins
from ladderlm.study.results import Results


def test_runs_that_were_not_all_made_alike_are_warned_of(done, tmp_path):
    """S07: another PyTorch, another commit, another machine between two runs of one line."""
    pool = tmp_path / "pool"
    shutil.copytree(done.pool, pool, ignore=shutil.ignore_patterns("checkpoints"))
    assert mixed_origins(done.plan, pool) == []
    good = [run for run in done.plan.runs if run.arm != "broken"]
    changes = ({"versions": {"torch": "2.10.0"}}, {"commit": "abc"}, {"hardware": "another"})
    for run, change in zip(good, changes, strict=False):
        file = pool / run.run_id / "environment.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    said = mixed_origins(done.plan, pool)
    assert len(said) == 3
    assert any("2.10.0 (1 runs)" in line and "(5 runs)" in line for line in said)


def timed(pool, name, begin, seconds, device="cpu", hardware="a CPU", role="ladder", own=1.0):
    """A finished run that began so many seconds after noon; None: it does not say when."""
    environment = {"device": device}
    if begin is not None:
        environment["timing"] = {"started_at": f"2026-01-01T12:00:{begin:09.6f}+00:00"}
    publish_json(pool / name / "environment.json", environment)
    return make_row(
        run_id=name, role=role, hardware=hardware, seconds=seconds, flops_spent=own * 1e9
    )


def test_times_of_runs_that_shared_a_machine_or_had_another_do_not_compare(tmp_path):
    rows = [
        timed(tmp_path, "alone", 0, 10),
        timed(tmp_path, "one", 10, 10),
        timed(tmp_path, "beside", 14, 5),  # all of its time beside "one", which had half of its own
        timed(tmp_path, "long", 20, 10),
        timed(tmp_path, "noise", 22, 6, role="noise"),
        timed(tmp_path, "older", None, 10),
        timed(tmp_path, "other", 40, 10, hardware="another"),
        timed(tmp_path, "branch", 50, 8, own=0.5),  # half of its seconds were its trunk's
        timed(tmp_path, "next", 54, 4),
    ]
    found = incomparable_times(Results(tuple(rows)), tmp_path)
    assert sorted(found) == ["beside", "long", "other"]
    assert found["other"] == "ran on another, most runs on a CPU"
    assert found["long"] == "shared the machine with other runs of the study"
    on_gpus = [timed(tmp_path, name, 0, 10, device="cuda") for name in ("gpu-1", "gpu-2")]
    assert incomparable_times(Results(tuple(on_gpus)), tmp_path) == {}
    assert incomparable_times(Results(), tmp_path) == {}
