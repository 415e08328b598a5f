"""Workers as jobs: what they run, how they end, and what is refused before one is submitted."""

import sys
import time
from pathlib import Path

import pytest

from quail_lightning import __version__
from quail_lightning.configuration.files import find_config
from quail_lightning.errors import InputError, RunError
from quail_lightning.sweep import launcher
from quail_lightning.sweep.launcher import Jobs, check_ended, check_submitit, follow, read_jobs, submit

LOCAL = Jobs("local", {"timeout_min": 5})


@pytest.mark.parametrize("name", ["slurm", "local"])
def test_what_is_shipped_is_read_and_taken_by_submitit(name, tmp_path, monkeypatch) -> None:
    submitit = pytest.importorskip("submitit")
    jobs = read_jobs(find_config(f"launcher/{name}.yaml"))
    assert jobs.executor == name
    assert jobs.parameters["timeout_min"] == 1440
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda _: 1))  # as where srun is
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/srun")
    launcher._executor(jobs, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [("executor: ray", "no such executor in .*; got 'ray'. Allowed: slurm or local"), ("3", "holds no options")],
)
def test_a_file_that_says_nothing_of_jobs_is_refused(tmp_path, content, said) -> None:
    (tmp_path / "jobs.yaml").write_text(content)
    with pytest.raises(InputError, match=said):
        read_jobs(tmp_path / "jobs.yaml")


def test_without_submitit_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"pip install 'quail-lightning\[cluster\]'"):
        check_submitit(LOCAL)


def test_without_slurm_the_way_to_try_it_is_named(monkeypatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"no SLURM on this machine.*executor: local"):
        check_submitit(Jobs("slurm", {}))


def test_a_parameter_that_submitit_does_not_know_is_refused(tmp_path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(InputError, match=r"submitit refuses a parameter of the jobs:.*'gpus'"):
        submit(["--version"], Jobs("local", {"gpus": 1}), 1, tmp_path)


def test_each_worker_is_a_job_that_runs_the_command(tmp_path) -> None:
    pytest.importorskip("submitit")
    submitted = submit(["--version"], LOCAL, 2, tmp_path)
    looks: list[float] = []
    follow(submitted, lambda: looks.append(time.monotonic()), wait=0.2)
    assert [job.state for job in submitted] == ["FINISHED", "FINISHED"]
    assert looks, "the table is drawn while they run"
    assert all(__version__ in job.stdout() for job in submitted)
    check_ended(submitted, open_trials=0)


def test_jobs_that_failed_are_named_with_their_logs(tmp_path) -> None:
    pytest.importorskip("submitit")
    submitted = submit(["no-such-verb"], LOCAL, 1, tmp_path)
    follow(submitted, lambda: None, wait=0.2)
    with pytest.raises(
        RunError, match=r"3 trials are left, and every job has ended: \d+ \(FINISHED, failed\)"
    ) as error:
        check_ended(submitted, open_trials=3)
    assert str(submitted[0].paths.stderr) in str(error.value)
    assert (
        "no-such-verb" in Path(submitted[0].paths.stderr).read_text() + Path(submitted[0].paths.stdout).read_text()
    )


def test_an_interrupt_cancels_the_jobs() -> None:
    class Waiting:
        cancelled = False

        def done(self) -> bool:
            return False

        def cancel(self) -> None:
            self.cancelled = True

    def interrupt() -> None:
        raise KeyboardInterrupt

    jobs = [Waiting(), Waiting()]
    with pytest.raises(KeyboardInterrupt):
        follow(jobs, interrupt)
    assert [job.cancelled for job in jobs] == [True, True]
