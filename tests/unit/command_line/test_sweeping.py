"""What of `quail sweep` can be refused is refused before a trial starts; a whole sweep is an integration test."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from sweep_validation import write_validation

from quail_lightning.cli import main
from quail_lightning.command_line import sweeping
from quail_lightning.sweep import worker

pytest.importorskip("optuna")
BASE = ["sweep", "--config", "quickstart.yaml", "--trials", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quail"])
    monkeypatch.setattr(worker.Worker, "work", lambda _: pytest.fail("a trial starts"))
    return tmp_path


def space(options, **content):
    Path("space.yaml").write_text(yaml.safe_dump({"options": options} | content))
    return ["--space", "space.yaml"]


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    assert not Path("logs").exists(), "what is refused leaves nothing"
    return capsys.readouterr().err


ALPHA = {"model.alpha": {"values": [1.0, 5.0]}}


@pytest.mark.parametrize(
    ("options", "given", "said"),
    [
        (
            {"model.alfa": {"values": [1.0]}},
            [],
            "--model.alfa=1.0 of the space .* is refused: .*model.alpha",
        ),
        ({"model.hinge.stepp": {"values": [1.0]}}, [], "has no option 'stepp'.*Did you mean 'step'"),
        ({"model.alpha": {"values": [1.0, "much"]}}, [], "--model.alpha=much .*a finite number"),
        ({"model.alpha": {"low": -1.0, "high": 2.0}}, [], "--model.alpha=-1.0 .*not negative"),
        ({"trainer.max_epochs": {"low": 1, "high": 3}}, [], "--trainer.max_epochs=1.0 .*a whole number"),
        (ALPHA, ["--model.alpha", "3"], "the space and the command line set the same options"),
        (ALPHA, ["--model.gama=3"], "Did you mean 'model.gamma'"),
        (ALPHA, ["--best.enabled", "false"], "a sweep sets these options of its trials itself"),
        (ALPHA, ["--trials", "0"], "--trials must be at least 1; got 0"),
        (ALPHA, ["--trials", "some"], "--trials|trials does not fit"),
        (ALPHA, ["--storage", "sqlite:///space.yaml"], "the storage cannot be read"),
        (ALPHA, ["--evaluation.retrained=null"], "the best model is the one that forgot enough"),
        (ALPHA, ["--out", "space.yaml"], "--out names a file"),
        (ALPHA, ["--launcher", "ray"], "launcher"),
        (ALPHA, ["--launcher=submitit", "--workers", "0"], "--workers must be at least 1; got 0"),
        (ALPHA, ["--launcher=submitit", "--jobs", "nosuch.yaml"], "no config file 'nosuch.yaml'"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(capsys, options, given, said):
    error = refused(capsys, *BASE, *space(options), *given)
    assert re.search(said, error), error


def test_a_space_without_a_config_and_a_config_without_a_space_are_refused(capsys):
    assert "a sweep needs the config of its runs" in refused(
        capsys, "sweep", "--trials", "2", *space({"model.alpha": {"values": [1.0]}})
    )
    assert "space" in refused(capsys, *BASE)
    assert "no config file 'nosuch.yaml'" in refused(capsys, *BASE, "--space", "nosuch.yaml")


def test_without_optuna_its_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna.storages", None)
    assert "pip install 'quail-lightning[sweep]'" in refused(capsys, *BASE, *space(ALPHA))


@pytest.mark.parametrize(
    ("config", "name"), [("news.yaml", "sweep/quail.yaml"), ("quickstart.yaml", "sweep/quickstart.yaml")]
)
def test_every_shipped_space_passes_the_parser_of_its_config(config, name, monkeypatch):
    monkeypatch.setattr(worker.Worker, "work", lambda self: None)
    with pytest.raises(SystemExit) as ended:  # no trial was run, so that none was finished
        main(["sweep", "--config", config, "--space", name, "--trials", "3"])
    assert ended.value.code == 1


def test_the_winners_config_is_whole_and_its_values_are_the_winners(monkeypatch, capsys):
    def work(self):
        for loss in (2.0, 3.5):
            trial = self.study.ask()
            trial.suggest_categorical("model.alpha", [1.0, 5.0])
            self._trial = trial
            folder = self.plan.folder(trial.number)
            write_validation(folder, (loss, 2.0))
            (folder / "model").mkdir()
            self.study.tell(trial, self._figures(trial, trial.number, trial.params))

    monkeypatch.setattr(worker.Worker, "work", work)
    main([*BASE, *space(ALPHA, sampler="grid"), "--trainer.max_epochs=3", "--study=s", "--out=s"])
    said = capsys.readouterr().out
    assert "The winner is trial 1" in said
    assert "where the target has 3.000" in said
    rows = Path("s/trials.csv").read_text().splitlines()
    assert rows[0].startswith("trial,state,model.alpha,epoch,forgetting,utility,shortfall,front")
    assert [row.split(",")[0:2] for row in rows[1:]] == [["0", "done"], ["1", "done"]]
    assert Path("s/pareto.png").stat().st_size > 5_000
    written = yaml.safe_load(Path("s/winner.yaml").read_text())
    assert str(written["model"]["alpha"]) == rows[2].split(",")[2]
    assert written["best"]["enabled"] is True
    assert written["trainer"]["max_epochs"] == 3
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "s/winner.yaml", "--print_config"])
    assert ended.value.code in (None, 0)


def test_a_launcher_submits_workers_of_the_same_study_and_waits(monkeypatch, capsys):
    class Job:
        job_id, state = "7", "COMPLETED"
        paths = SimpleNamespace(stdout="7.out", stderr="7.err")

        def done(self):
            return True

        def exception(self):
            return None

    submitted = []

    def submit(command, jobs, workers, folder):
        submitted.append((command, jobs.executor, workers, folder))
        return [Job()] * workers

    monkeypatch.setattr(sweeping, "submit", submit)
    monkeypatch.setattr(sweeping, "check_submitit", lambda jobs: None)
    launcher = ["--launcher", "submitit", "--workers", "3", "--jobs", "launcher/local.yaml"]
    with pytest.raises(SystemExit) as ended:
        main([*BASE, *space(ALPHA), "--model.gamma=2", *launcher, "--out=s"])
    assert ended.value.code == 1
    [(command, executor, workers, folder)] = submitted
    assert (executor, workers, folder) == ("local", 3, Path("s/jobs"))
    assert folder.stat().st_mode & 0o77 == 0, "the command may hold a password"
    said = capsys.readouterr()
    assert "job 7: 7.out" in said.out
    assert "2 trials are left, and every job has ended: 7 (COMPLETED), 7 (COMPLETED)" in said.err
    worked = []
    monkeypatch.setattr(worker.Worker, "work", lambda self: worked.append(self.plan.fit))
    with pytest.raises(SystemExit):  # it is a worker of that study: no trial is finished, and none was refused
        main(command)
    assert [fit[-1] for fit in worked] == ["--model.gamma=2"]
    assert "no trial was finished" in capsys.readouterr().err
