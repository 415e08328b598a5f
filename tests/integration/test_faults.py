"""What strikes a run, and how it goes on: every fault is real, in a process of its own."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from quail_lightning.data import MuseDataModule, Newsroom
from quail_lightning.models.checkpoint import save_model
from quail_lightning.models.tiny import tiny_llama, train_tokenizer
from quail_lightning.run.training_state import checkpoints_in

pytestmark = pytest.mark.slow

SERVER = Path(__file__).with_name("fault_server.py")
WHOLE = "undisturbed"


class Runs:
    """A folder with a target, and the command that unlearns it."""

    def __init__(self, folder):
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )

    def fit(self, name, *arguments, fault=None):
        """Exit status (negative: of a signal) and what was printed."""
        (status,), log = self.fit_together(1, name, *arguments, fault=fault)
        return status, log

    def fit_together(self, processes, name, *arguments, fault=None):
        """The exit status of each process, and what all printed."""
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        version = f"--trainer.logger.init_args.version={name}"
        asked = {"arguments": ["fit", *OPTIONS, version, *arguments], "fault": fault, "log": str(log)}
        asked["processes"] = processes
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline()), log.read_text()

    def run(self, name):
        return self.folder / "logs/faults" / name


OPTIONS = [
    "--config=quickstart.yaml",
    "--prepare=null",
    "--model.target=target",
    "--model.learning_rate=1e-3",
    "--model.stop=20",
    "--data.corpus=corpus",
    "--data.newsroom=null",
    "--data.max_len=64",
    "--data.batch_size=2",
    "--data.max_forget_windows=6",
    "--data.max_retain_windows=8",
    "--evaluation.precisions=[uniform4-tensor]",
    "--evaluation.retrained=null",
    "--evaluation.suite={batch_size: 8, verbmem_new_tokens: 4, knowmem_new_tokens: 2, max_prompts: 2}",
    "--evaluation.max_windows=2",
    "--evaluation.every_n_epochs=1",
    "--checkpoint={enabled: true, every_n_steps: 2, keep: 9}",
    "--trainer.max_epochs=2",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.limit_val_batches=1",
    "--trainer.accelerator=cpu",
    "--trainer.deterministic=true",
    "--trainer.logger.init_args.name=faults",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The undisturbed run has been made."""
    folder = tmp_path_factory.mktemp("faults")
    Newsroom(6, 6, 2, rounds=1).write(folder / "corpus")
    data = MuseDataModule(str(folder / "corpus"))
    documents = data.documents(data.open())
    tokenizer = train_tokenizer([*documents.forget, *documents.retain], 300)
    model = tiny_llama(vocab_size=len(tokenizer), width=64, layers=1, heads=2, positions=700, seed=1)
    save_model(model, tokenizer, folder / "target", {"made_by": "tests"})
    made = Runs(folder)
    status, log = made.fit(WHOLE)
    assert status == 0, log
    yield made
    made.server.stdin.close()
    made.server.wait(30)


def scalars(run):
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_same_end(found, expected):
    """The saved weights, the results and the logged curves, to the last bit."""
    name = "model/model.safetensors"
    assert (found / name).read_bytes() == (expected / name).read_bytes()
    assert (found / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    assert scalars(found) == scalars(expected)


def steps(run):
    return [checkpoint.step for checkpoint in checkpoints_in(run)]


KILLED = {  # fault → the checkpoints that it leaves
    "SIGKILL inside an epoch": [2],
    "SIGKILL inside a checkpoint": [2],
    "SIGKILL before a checkpoint is vouched for": [2],
    "SIGKILL right after a checkpoint": [2],
    "SIGKILL inside the evaluation": [2, 3],
    "SIGKILL inside the last evaluation": [2, 3, 4, 6],
    "SIGKILL inside the export": [2, 3, 4, 6],
}


@pytest.mark.parametrize("fault", KILLED)
def test_a_killed_run_goes_on_and_ends_as_if_undisturbed(fault, runs):
    name = fault.replace(" ", "-")
    status, log = runs.fit(name, fault=fault)
    assert status == -signal.SIGKILL, log
    assert steps(runs.run(name)) == KILLED[fault]
    assert not (runs.run(name) / "model").exists()
    status, log = runs.fit(name, "--ckpt_path=last")
    assert status == 0, log
    assert_same_end(runs.run(name), runs.run(WHOLE))


def test_a_cache_cut_short_is_made_again(runs):
    cache = "--model.reference.init_args.folder=cut-cache"
    kind = "--model.reference=quail_lightning.reference.CachedStates"
    status, log = runs.fit("cache", kind, cache, fault="SIGKILL inside the reference cache")
    assert status == -signal.SIGKILL, log
    assert list((runs.folder / "cut-cache").rglob("*.partial"))
    status, log = runs.fit("cache-again", kind, cache)
    assert status == 0, log
    assert "never finished" in log
    assert_same_end(runs.run("cache-again"), runs.run(WHOLE))


TERMINATED = {
    "SIGTERM inside an optimizer step": [2, 3, 4, 5],
    "SIGTERM inside an epoch's last batch": [2, 3],
    "SIGTERM inside the evaluation": [2, 3],
}


@pytest.mark.parametrize("fault", TERMINATED)
def test_sigterm_saves_ends_at_once_and_the_run_goes_on(fault, runs):
    name = re.sub(r"\W", "-", fault)
    status, log = runs.fit(name, fault=fault)
    assert status == 128 + signal.SIGTERM, log
    assert "Ended by SIGTERM" in log
    assert "--ckpt_path last" in log
    assert "Traceback" not in log
    assert steps(runs.run(name)) == TERMINATED[fault]
    status, log = runs.fit(name, "--ckpt_path=last")
    assert status == 0, log
    assert_same_end(runs.run(name), runs.run(WHOLE))


def test_a_full_disk_is_named_and_the_checkpoint_before_is_intact(runs):
    status, log = runs.fit("full", fault="disk full")
    assert status == 1
    assert re.search(r"disk of \S+full is full: the checkpoint after batch 3.*step-00000002, is intact", log)
    assert "Traceback" not in log
    assert steps(runs.run("full")) == [2]
    assert not list(runs.run("full").glob("checkpoints/.*")), "what was half written takes room"
    status, log = runs.fit("full", "--ckpt_path=last")
    assert status == 0, log
    assert_same_end(runs.run("full"), runs.run(WHOLE))


def test_a_damaged_checkpoint_is_named_and_the_one_before_offered(runs):
    name = "damaged"
    assert runs.fit(name, fault="SIGKILL inside the evaluation")[0] == -signal.SIGKILL
    newest = checkpoints_in(runs.run(name))[-1].folder
    path = newest / "tensors-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    status, log = runs.fit(name, "--ckpt_path=last")
    assert status == 2
    assert "Traceback" not in log
    offered = re.search(r"step-00000003 is damaged: tensors-\S+ is damaged.*--ckpt_path (\S+step-00000002)\.", log)
    status, log = runs.fit(name, f"--ckpt_path={offered[1]}")
    assert status == 0, log
    assert_same_end(runs.run(name), runs.run(WHOLE))


def test_last_without_a_checkpoint_is_an_error(runs):
    status, log = runs.fit("nothing", "--ckpt_path=last")
    assert status == 2
    assert re.search(r"no checkpoint to go on from in \S*nothing.*checkpoint\.enabled: true", log)


def test_a_run_goes_on_only_with_its_own_config(runs):
    other = ["--model.learning_rate=2e-3", "--export.folder=other"]
    before = scalars(runs.run(WHOLE))
    status, log = runs.fit(WHOLE, "--ckpt_path=last", *other)
    assert status == 2
    assert "learning_rate: 0.001 then, 0.002 now" in log
    assert scalars(runs.run(WHOLE)) == before


def test_without_a_version_last_means_the_youngest_run(runs):
    status, log = runs.fit("ignored", "--ckpt_path=last", "--trainer.logger.init_args.version=null")
    written = [path for path in runs.run("").glob("*/checkpoints/step-*") if "latest" not in path.parts]
    youngest = max(written, key=lambda path: path.stat().st_mtime_ns)
    assert status == 2
    assert f"{youngest.parts[-3]}/model, which exists already" in log, "that run has ended"


def test_config_versions_revision_and_hardware_are_saved_with_the_run(runs):
    run = runs.run(WHOLE)
    (start,) = json.loads((run / "run.json").read_text())["starts"]
    assert start["seed"] == 42
    assert start["packages"]["torch"]
    assert start["hardware"]["cores"] >= 1
    assert start["resumed_from"] is None
    assert start["outcome"] == "finished"
    assert "deterministic: true" in (run / "config.yaml").read_text()
    kept = json.loads((checkpoints_in(run)[-1].folder / "run.json").read_text())
    (cache,) = (runs.folder / "checkpoints/reference-cache").iterdir()
    assert kept["reference_fingerprint"][:16] == cache.name
    assert kept["origin"]["batch_size"] == 2


def running(group):
    """Process numbers of a group, but for dead ones that nobody has waited for yet."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended just now
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                found.append(path.parent.name)
    return found


def test_one_killed_process_ends_the_others(runs):
    script = Path(__file__).with_name("fault_in_second_process.py")
    two = ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.logger.init_args.version=two"]
    process = subprocess.Popen(
        [sys.executable, str(script), "fit", *OPTIONS, *two],
        cwd=runs.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        log, _ = process.communicate(timeout=300)  # hanging is the failure
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode != 0, log
    deadline = time.monotonic() + 60
    while running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not running(process.pid)
    assert steps(runs.run("two")) == []


FSDP2 = "--trainer.strategy={class_path: lightning.pytorch.strategies.ModelParallelStrategy}"
SHARDED = [FSDP2, "--trainer.devices=2", "--data.batch_size=1"]


def test_a_sharded_run_whose_processes_are_killed_goes_on_and_ends_as_if_undisturbed(runs):
    statuses, log = runs.fit_together(2, "sharded-whole", *SHARDED)
    assert statuses == [0, 0], log
    statuses, log = runs.fit_together(2, "sharded", *SHARDED, fault="SIGKILL inside an epoch")
    assert statuses == [-signal.SIGKILL] * 2, log
    assert steps(runs.run("sharded")) == [2]
    written = {path.name for path in checkpoints_in(runs.run("sharded"))[0].folder.iterdir()}
    assert {"__0_0.distcp", "__1_0.distcp", "shards.json", "state.json"} <= written, "a shard of each"
    assert not written & {".metadata", "meta.pt"}, "no pickles"
    statuses, log = runs.fit_together(2, "sharded", *SHARDED, "--ckpt_path=last")
    assert statuses == [0, 0], log
    starts = json.loads((runs.run("sharded") / "run.json").read_text())["starts"]
    assert starts[-1]["resumed_from"].endswith("step-00000002")
    assert_same_end(runs.run("sharded"), runs.run("sharded-whole"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_loss_spoiled_on_one_process_ends_all_with_step_windows_and_term(strategy, runs):
    two = SHARDED if strategy == "fsdp" else [*SHARDED, "--trainer.strategy=ddp"]
    statuses, log = runs.fit_together(2, f"spoiled-{strategy}", *two, fault="NaN on the second process")
    assert statuses == [1, 1], log
    said = re.findall(r"not finite in step 2 \(epoch 1\), on the forget windows \[(\d)\]: forget = nan", log)
    assert len(said) == 2, log
    assert len(set(said)) == 1, "every process says it, with the windows of the one that saw it"
    assert "Traceback" not in log
