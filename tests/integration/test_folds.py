"""`quail folds` with real fits: where each fold starts, what is kept, and how a killed run goes on."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from quail_lightning.cli import main
from quail_lightning.commands import folds
from quail_lightning.data import MuseDataModule, Newsroom
from quail_lightning.models.checkpoint import save_model
from quail_lightning.models.tiny import tiny_llama, train_tokenizer
from quail_lightning.run.results import read_results
from quail_lightning.unlearning import UnlearningModule

pytestmark = pytest.mark.slow

NEWSROOM = Newsroom(6, 6, 2, rounds=1, folds=2)
OPTIONS = [
    "prepare=null",
    "model.target=target",
    "model.learning_rate=1e-3",
    "model.stop=null",
    "data.corpus=corpus",
    "data.newsroom=null",
    "data.max_len=128",
    "data.batch_size=2",
    "data.max_retain_windows=4",
    "evaluation.precisions=[bf16]",
    "evaluation.retrained=null",
    "evaluation.suite={batch_size: 8, verbmem_new_tokens: 4, knowmem_new_tokens: 2, max_prompts: 2}",
    "evaluation.max_windows=2",
    "checkpoint={enabled: true, every_n_steps: 1}",
    "trainer.max_epochs=2",
    "trainer.limit_val_batches=0",
    "trainer.accelerator=cpu",
]


def arguments(start_from):
    sort = {"previous": "sust", "target": "scal"}[start_from]
    forget = f"--forget=[{sort}/forget_1,{sort}/forget_2]"
    fit = "--fit=[quickstart.yaml,method/ga_gdr.yaml,logger/csv.yaml]"  # with two loggers
    return ["folds", fit, forget, f"--start_from={start_from}", f"--out=logs/{sort}", "--options", *OPTIONS]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    NEWSROOM.write(folder / "corpus")
    data = MuseDataModule(str(folder / "corpus"))
    tokenizer = train_tokenizer([*data.documents(data.open()).forget], 300)
    model = tiny_llama(vocab_size=len(tokenizer), width=64, layers=1, heads=2, positions=700, seed=1)
    save_model(model, tokenizer, folder / "target", {"made_by": "tests"})
    return folder


@pytest.fixture(scope="module")
def started(here):
    """start_from → weights before the first step of each fold; both kinds of run were made."""
    found = {}

    def execute(given):
        main(given)  # in this process: only the imports of a process of its own are saved
        return 0

    real = UnlearningModule.on_train_start

    def remember(module):
        real(module)
        weights = {name: weight.detach().clone() for name, weight in module.model.named_parameters()}
        found.setdefault(kind, []).append(weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "argv", ["quail"])
        patch.setattr(folds, "_execute", execute)
        patch.setattr(UnlearningModule, "on_train_start", remember)
        for kind in ("previous", "target"):
            main(arguments(kind))
    return found


def same_weights(started, saved):
    stored = load_file(saved / "model.safetensors")
    shared = started.keys() & stored.keys()
    assert len(shared) > 8
    return all(started[name].equal(stored[name].to(started[name].dtype)) for name in shared)


def test_in_sustainability_the_second_fold_starts_from_what_the_first_left(here, started):
    first, second = started["previous"]
    assert same_weights(first, here / "target")
    assert same_weights(second, here / "logs/sust/fold_1/model")
    assert not same_weights(second, here / "target")


@pytest.mark.usefixtures("started")
def test_every_fold_keeps_what_its_loggers_wrote(here):
    for fold in (1, 2):
        header, *lines = (here / f"logs/sust/fold_{fold}/metrics.csv").read_text().splitlines()
        assert "train/forget" in header.split(",")
        assert lines
        assert list((here / f"logs/sust/fold_{fold}").glob("events.out.tfevents.*"))


def test_in_scalability_every_fold_starts_from_the_target(here, started):
    assert all(same_weights(fold, here / "target") for fold in started["target"])
    one, two = (here / f"logs/scal/fold_{fold}/model/model.safetensors" for fold in (1, 2))
    assert one.read_bytes() != two.read_bytes()


def test_the_table_holds_the_target_and_the_last_epoch_of_each_fold_and_a_curve_is_drawn(here, started):
    rows = read_results(here / "logs/sust")
    assert [(row.model, row.epoch) for row in rows] == [
        ("target", None),
        ("fold 1: sust/forget_1", 2),
        ("fold 2: sust/forget_2", 2),
    ]
    assert "knowmem_retain" in rows[0].metrics
    assert "nll_forget" not in rows[0].metrics, "each fold has windows of its own"
    assert "nll_forget" in rows[2].metrics
    assert (here / "logs/sust/folds.png").stat().st_size > 5000


def command(given):
    return subprocess.Popen(
        [sys.executable, "-m", "quail_lightning", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )


def wait_for(process, pattern, folder):
    deadline = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_run_takes_its_fold_with_it_and_no_second_call_deletes_under_it(
    here, started, capfd, monkeypatch
):
    monkeypatch.chdir(here)
    given = [part if not part.startswith("--out") else "--out=logs/killed" for part in arguments("target")]
    process = command(given)
    try:
        wait_for(process, "logs/killed/fold_1/.lock", here)
        with pytest.raises(SystemExit) as ended:
            main(given)
        assert ended.value.code == 2
        assert f"the folder of the folds logs/killed is in use by process {process.pid}" in capfd.readouterr().err
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while is_running(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        process.stdout.close()


def is_running(group):
    """Whether a process of a group lives; one that ended and was not waited for does not."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
            states += [state] if int(of_group) == group else []
    return any(state != "Z" for state in states)


def test_a_terminated_run_ends_its_fold_and_goes_on_with_the_finished_ones(here, started, monkeypatch, capfd):
    monkeypatch.chdir(here)
    undisturbed = (here / "logs/sust/fold_2/model/model.safetensors").read_bytes()
    kept = (here / "logs/sust/fold_1/model/model.safetensors").stat().st_mtime_ns
    shutil.rmtree(here / "logs/sust/fold_2")
    process = command(arguments("previous"))
    try:
        wait_for(process, "logs/sust/fold_2/checkpoints/step-*", here)
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=60)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 128 + signal.SIGTERM, log
    assert "fold 1: finished before" in log
    assert not (here / "logs/sust/fold_2/model").exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # the fold's own process has ended with it

    def execute(given):
        assert given[-1] == "--ckpt_path=last"
        main(given)
        return 0

    monkeypatch.setattr(sys, "argv", ["quail"])
    monkeypatch.setattr(folds, "_execute", execute)
    main(arguments("previous"))
    assert "goes on from its last checkpoint" in capfd.readouterr().out
    assert (here / "logs/sust/fold_1/model/model.safetensors").stat().st_mtime_ns == kept
    assert (here / "logs/sust/fold_2/model/model.safetensors").read_bytes() == undisturbed
    assert len(json.loads((here / "logs/sust/results.json").read_text())["rows"]) == 3
