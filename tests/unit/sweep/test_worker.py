"""Workers of one study: what each takes, what becomes of what one leaves, and what is noted."""

import math
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from sweep_validation import write_validation

from quail_lightning.errors import InputError
from quail_lightning.sweep.figures import TrialFailed
from quail_lightning.sweep.front import on_front, winner
from quail_lightning.sweep.space import Choice, Range, Space
from quail_lightning.sweep.study import MOST_TRIES, REASON, open_storage, open_study, origin, slots
from quail_lightning.sweep.trial import SweepPlan, failure, how_to_begin, run_fit
from quail_lightning.sweep.worker import Worker

pytest.importorskip("optuna")
FORGET = {"1.0": 2.0, "5.0": 3.0, "20.0": 3.5}  # α → NLL of the forget windows
RETAIN = {"1.0": 2.0, "5.0": 2.5, "20.0": 2.25}


class Silent:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    def look(self):
        pass


class Fits:
    """In place of a `quail fit`: what it leaves, and what it was called with."""

    def __init__(self, plan):
        self.plan, self.calls = plan, []

    def __call__(self, arguments, log, watch):
        given = dict(part.removeprefix("--").split("=", 1) for part in arguments if "=" in part)
        self.calls.append(given)
        alpha, folder = given["model.alpha"], Path(given["run_folder"])
        assert folder.parent == self.plan.out
        write_validation(folder, (FORGET[alpha], RETAIN[alpha]))
        watch()


def opened(plan, name="s", grace=60, heartbeat=15, setting=None):
    storage = open_storage(f"sqlite:///{plan.out}/study.db", plan.out, heartbeat, grace)
    return open_study(storage, name, plan.space, setting or {"space": 1}, plan.out)


def run(plan, study=None, fits=None, **options):
    study = study or opened(plan)
    shown = Silent()
    Worker(study, plan, shown, fits or Fits(plan), wait=0.05, **options).work()
    return slots(study.get_trials()), shown.lines


def test_a_grid_is_run_once_and_its_figures_are_those_of_validation(plan):
    fits = Fits(plan)
    trials, _ = run(plan, fits=fits)
    assert sorted(call["model.alpha"] for call in fits.calls) == ["1.0", "20.0", "5.0"]
    assert all(call["best.enabled"] == "true" for call in fits.calls)
    by_alpha = {trial.params["model.alpha"]: trial for trial in trials}
    assert by_alpha[1.0].values == [pytest.approx(2.0), pytest.approx(1.0)]
    assert by_alpha[5.0].values == [pytest.approx(1.0), pytest.approx(math.exp(-0.5))]
    assert by_alpha[20.0].values == [pytest.approx(0.5), pytest.approx(math.exp(-0.25))]
    assert on_front(trials) == {origin(by_alpha[1.0]), origin(by_alpha[20.0])}, "20 beats 5 in both"
    assert winner(trials) is by_alpha[20.0], "shortfall 0.75 against 2"
    run(plan, fits=fits)
    assert len(fits.calls) == 3, "a finished sweep has nothing left to run"


def test_the_front_is_optunas_own(plan):
    study = opened(plan)
    trials, _ = run(plan, study)
    assert on_front(trials) == {trial.number for trial in study.best_trials}


def test_two_workers_run_as_many_together_and_no_point_twice(plan):
    fits = Fits(plan)
    studies = [opened(plan), opened(plan)]
    workers = [
        threading.Thread(target=Worker(study, plan, Silent(), fits, wait=0.05).take_all) for study in studies
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(call["model.alpha"] for call in fits.calls) == ["1.0", "20.0", "5.0"]
    assert [trial.state.name for trial in slots(studies[0].get_trials())] == ["COMPLETE"] * 3


def test_a_trial_below_the_utility_floor_is_stopped_and_not_on_the_front(plan):
    space = Space("grid", plan.space.options, utility_floor=0.7)  # 5 keeps 61 %
    floored = SweepPlan(plan.fit, space, 3, plan.out)
    trials, lines = run(floored)
    (stopped,) = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert stopped.params["model.alpha"] == 5.0
    assert stopped.user_attrs["utility"] == pytest.approx(math.exp(-0.5))
    assert "below the floor" in stopped.user_attrs[REASON]
    assert any("stopped below the utility floor" in line for line in lines)


def test_the_process_is_ended_where_its_utility_falls_below_the_floor(plan):
    floored = SweepPlan(plan.fit, Space("grid", plan.space.options, utility_floor=0.7), 1, plan.out)
    asked = []

    def fit(arguments, log, watch):
        folder = floored.folder(0)
        write_validation(folder, (3.0, 2.0))
        asked.append(watch())
        write_validation(folder, (3.0, 2.0), (3.9, 9.0))
        asked.append(watch())

    run(floored, fits=fit)
    assert asked == [True, False]


def test_a_failed_trial_is_noted_with_its_reason_and_the_sweep_goes_on(plan):
    good = Fits(plan)

    def fit(arguments, log, watch):
        if "--model.alpha=5.0" in arguments:
            raise TrialFailed("exit status 1: error: memory is short")
        good(arguments, log, watch)

    trials, _ = run(plan, fits=fit)
    assert sorted(trial.state.name for trial in trials) == ["COMPLETE", "COMPLETE", "FAIL"]
    (failed,) = [trial for trial in trials if trial.state.name == "FAIL"]
    assert failed.user_attrs[REASON] == "exit status 1: error: memory is short"


def test_figures_against_another_target_fail_the_trial(plan):
    calls = []

    def fit(arguments, log, watch):
        calls.append(arguments)
        folder = plan.folder(len(calls) - 1)
        write_validation(folder, (3.0, 2.0), target=(1.0, 2.0 + len(calls) // 3))

    trials, _ = run(plan, fits=fit)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert "cannot be compared with those of trial 0" in trials[2].user_attrs[REASON]


def test_a_dead_workers_trial_is_taken_up_with_its_values(plan):
    study = opened(plan, heartbeat=1, grace=2)
    dead = study.ask()  # a worker that took it, gave one sign of life and was killed
    alpha = dead.suggest_categorical("model.alpha", [1.0, 5.0, 20.0])
    study._storage.record_heartbeat(dead._trial_id)
    time.sleep(2.2)
    fits = Fits(plan)
    trials, _ = run(plan, study, fits)
    assert (len(trials), origin(trials[0])) == (3, 0)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert trials[0].params == {"model.alpha": alpha}
    assert sorted(call["model.alpha"] for call in fits.calls) == ["1.0", "20.0", "5.0"]
    again = [c for c in fits.calls if c["run_folder"].endswith("/trial-0000")]
    assert [call["model.alpha"] for call in again] == [str(alpha)]


def test_a_trial_whose_workers_die_again_and_again_is_given_up(plan):
    study = opened(plan, heartbeat=1, grace=1)
    one = SweepPlan(plan.fit, plan.space, 1, plan.out)
    for _ in range(MOST_TRIES):
        study._storage.record_heartbeat(study.ask()._trial_id)
        time.sleep(2.2)
        Worker(study, one, Silent())._left()
    (trial,) = slots(study.get_trials())
    assert trial.state.name == "FAIL"
    assert len(study.get_trials()) == MOST_TRIES


def test_an_interrupted_trial_is_run_again_and_the_others_are_not(plan):
    study, fits = opened(plan), Fits(plan)

    def fit(arguments, log, watch):
        if len(fits.calls) == 1:
            raise KeyboardInterrupt
        fits(arguments, log, watch)

    with pytest.raises(KeyboardInterrupt):
        run(plan, study, fit)
    trials, _ = run(plan, study, fits)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert sorted(call["model.alpha"] for call in fits.calls) == ["1.0", "20.0", "5.0"]


def test_sigterm_ends_with_its_own_status(plan):
    def fit(arguments, log, watch):
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        run(plan, fits=fit)
    assert ended.value.code == 128 + signal.SIGTERM
    assert ended.value.__context__ is None, "the command line takes a SystemExit out of Ctrl-C for Ctrl-C"


def test_a_finished_run_that_was_not_told_is_not_run_again(plan):
    write_validation(plan.folder(0), (3.0, 2.0))
    (plan.folder(0) / "model").mkdir()
    assert how_to_begin(plan.folder(0)) is None
    half = plan.folder(1)
    write_validation(half, (3.0, 2.0))
    assert how_to_begin(half) == []
    assert not half.exists()


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_other_samplers_stay_inside_the_space(plan, sampler):
    options = {"model.alpha": Choice((1.0, 5.0)), "model.gamma": Range(0.1, 10.0, log=True)}
    other = SweepPlan(plan.fit, Space(sampler, options), 12, plan.out)
    trials, _ = run(other, opened(other), Fits(other))
    assert len(trials) == 12
    assert all(0.1 <= trial.params["model.gamma"] <= 10 for trial in trials)
    assert {trial.params["model.alpha"] for trial in trials} <= {1.0, 5.0}


def test_a_study_of_another_sweep_and_a_folder_of_another_study_are_refused(plan):
    run(plan)
    with pytest.raises(InputError, match="differs in the section model"):
        opened(plan, setting={"space": 1, "the section model": "x"})
    plan.folder(0).mkdir(exist_ok=True)
    with pytest.raises(InputError, match="holds the trials of another study"):
        opened(plan, name="other")


@pytest.mark.parametrize("url", ["sqlite:///{out}/text", "nosuch://x", "", "postgresql+nodriver://u:secret@h/d"])
def test_a_storage_that_cannot_be_read_is_refused_without_its_password(plan, url):
    (plan.out / "text").write_text("no database, but long enough to be taken for one" * 100)
    with pytest.raises(InputError, match="storage cannot be read") as refused:
        open_storage(url.format(out=plan.out), plan.out)
    assert "secret" not in str(refused.value)


def test_a_failed_process_is_told_by_the_line_that_says_why(plan, monkeypatch):
    script = "print('loading', flush=True); raise SystemExit('error: no room. key=sk-abcdefgh12345678')"
    monkeypatch.setattr("quail_lightning.sweep.trial.own_command", lambda _: [sys.executable, "-c", script])
    log = plan.log(0)
    with pytest.raises(TrialFailed, match=r"exit status 1: error: no room\.") as failed:
        run_fit(["fit"], log, lambda: True)
    assert "sk-abc" not in str(failed.value)
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_process_that_is_not_worth_it_is_ended(plan, monkeypatch):
    script = "import time; time.sleep(60)"
    monkeypatch.setattr("quail_lightning.sweep.trial.own_command", lambda _: [sys.executable, "-c", script])
    began = time.monotonic()
    run_fit(["fit"], plan.log(0), lambda: False)
    assert time.monotonic() - began < 30


def test_the_reason_is_the_last_line_where_no_error_is_told(plan):
    plan.log(0).write_text("one\n\ntwo \n")
    assert failure(plan.log(0), -9) == "exit status -9: two"
