"""When runs start: as soon as what they need is there; and how long that takes in all."""

import math
from types import SimpleNamespace

import pytest

from builders import tiny_study, write_study
from ladderlm.config import to_dict
from ladderlm.executors.base import Job, State
from ladderlm.executors.job_packing import Packing
from ladderlm.files import publish_json
from ladderlm.study.launch import launch
from ladderlm.study.plan import plan_study
from ladderlm.study.schedule import n_side_by_side, wall_seconds
from ladderlm.study.spec import read_study
from reference.planted import Planted

ARMS = ("swiglu", "gelu")


@pytest.fixture
def spec_of(tiny_data, tmp_path):
    """Read a study of a tuned arm and one that is not, two lengths a size."""

    def give(**ladder):
        values = tiny_study(tiny_data)
        values["base"]["optim.schedule"] = "wsd"
        values["ladder"] |= {"branches": [0.5, 1], "noise_seeds": 1, **ladder}
        values["arm"][0]["tune"] = {"optim.learning_rate": "bracket"}
        return read_study(write_study(tmp_path / "s.toml", values))

    return give


def bowl(flops, config):
    """A best rate inside all grids, and not on one of their points."""
    return 1 + 0.1 * math.log(config.optim.learning_rate / 0.0347) ** 2


class Clocked(Planted):
    """A machine with a clock of its own; sleep goes on to the next end of a run."""

    def __init__(self, seconds_of, n_places):
        super().__init__(bowl)
        self.now, self.seconds_of, self.n_places = 0.0, seconds_of, n_places
        self.queue, self.ends, self.log, self.told = [], {}, [], True

    def submit(self, job):
        self.queue.append((job.rank, len(self.log) + len(self.queue), job))
        self._start()
        return job.name

    def _start(self):
        running = [name for name, end in self.ends.items() if end > self.now]
        while self.queue and len(running) < self.n_places:
            _, _, job = entry = min(self.queue, key=lambda entry: entry[:2])
            self.queue.remove(entry)
            running.append(job.name)
            self.ends[job.name] = self.now + self.seconds_of(job.name)
            self.log.append((self.now, job))

    def sleep(self, _):
        self.told = not self.told  # between two ends the driver hands over what the first allows
        if self.told:
            return
        later = [end for end in self.ends.values() if end > self.now]
        if later:
            self.now = min(later)
            for _, job in self.log:
                if self.ends[job.name] == self.now:
                    super().submit(job)
            self._start()

    def poll(self, name):
        if name not in self.ends:
            return State.QUEUED
        return State.RUNNING if self.ends[name] > self.now else State.DONE


@pytest.fixture
def carried_out(tmp_path, monkeypatch):
    """Carry out a study on such a machine; return all its plans, and the machine."""

    def give(spec, seconds_of, n_places=2):
        plans = [plan_study(spec, tmp_path / "pool", ())]

        def by_name(name):
            runs = (run for plan in plans for run in plan.settled)
            return seconds_of(next(run for run in runs if run.run_id == name))

        def replan(given_up):
            plans.append(plan_study(spec, tmp_path / "pool", given_up))
            return plans[-1]

        machine = Clocked(by_name, n_places)
        clock = SimpleNamespace(sleep=machine.sleep, monotonic=lambda: machine.now)
        monkeypatch.setattr("ladderlm.executors.base.time", clock)
        launch(plans[0], tmp_path / "pool", machine, replan=replan)
        return plans, machine

    return give


def test_the_predicted_wall_time_is_that_of_a_clock_run_through_it(spec_of, carried_out):
    """Rates that fall into place, trunks before branches, two places: to the last digit."""
    seconds = lambda run: run.flops_to_spend / 1e7 + run.rung.index  # noqa: E731
    plans, machine = carried_out(spec_of(), seconds)
    assert len(machine.log) == len(plans[0].runs) == 1 + (5 + 5 + 3) + 2 * 3 * 2
    room = Packing(2, 1e12, 0)
    assert wall_seconds(plans[0].runs, seconds, room) == pytest.approx(machine.now)
    started = {job.name: at for at, job in machine.log}
    for run in plans[-1].runs:
        assert run.trunk is None or started[run.run_id] >= machine.ends[run.trunk]
    assert not any(run.provisional for run in plans[-1].runs)


def test_what_has_ended_takes_no_time_and_what_runs_keeps_its_place(spec_of, tmp_path):
    runs = plan_study(spec_of(), tmp_path / "pool").settled[1:6]  # five rates of one rung
    assert wall_seconds(runs, lambda run: 0.0, Packing(2, 1e12, 0)) == 0
    assert wall_seconds([], lambda run: 1.0, Packing(2, 1e12, 0)) == 0
    assert wall_seconds(runs, lambda run: 3.0, Packing(2, 1e12, 0)) == 9
    assert wall_seconds(runs, lambda run: 3.0, Packing(9, 1e9, 0)) == 9  # by memory, two at once
    long = {runs[4].run_id: 10.0}
    left = lambda run: long.get(run.run_id, 1.0)  # noqa: E731
    assert wall_seconds(runs, left, Packing(2, 1e12, 0)) == 12
    assert wall_seconds(runs, left, Packing(2, 1e12, 0), running=list(long)) == 10
    assert n_side_by_side(runs, Packing(9, 1e9, 0)) == 2


def test_one_arms_chain_does_not_wait_for_anothers(spec_of, carried_out):
    """The other arm's runs each take longer than all of this arm's."""
    plans, machine = carried_out(
        spec_of(), lambda run: 1e6 if run.arm == "gelu" else 1.0, n_places=99
    )
    ends = {arm: [machine.ends[r.run_id] for r in plans[-1].runs if r.arm == arm] for arm in ARMS}
    assert max(ends["swiglu"]) < min(ends["gelu"])
    assert max(ends["gelu"]) == pytest.approx(2e6, rel=1e-3)  # trunk, branch


def test_a_failed_run_that_will_be_tried_again_chooses_no_rate(spec_of, tmp_path):
    """S02: its second try counts; the loss of the first would have left its rate out for ever."""
    spec, pool = spec_of(), tmp_path / "pool"
    plan = plan_study(spec, pool)
    machine = Planted(
        lambda _, config: None if config.optim.learning_rate > 0.1 else bowl(_, config)
    )
    lost = set()
    for job in (run for run in plan.settled if run.role == "bracket"):
        request = pool / ".requests" / f"{job.run_id}.json"
        publish_json(request, to_dict(job.config))
        handle = machine.submit(Job(job.run_id, (str(request),), pool / job.run_id / "run.log"))
        lost |= {job.run_id} if machine.exit_code(handle) else set()
    assert len(lost) == 2  # the highest rate of each rung
    for given_up, goes_on in ((None, True), (lost, True), ((), False), (sorted(lost)[:1], False)):
        again = plan_study(spec, pool, given_up)
        assert (len(again.settled) > len(plan.settled)) == goes_on
