"""`quail doctor --config`: what fit would refuse, and what a run takes."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from quail_lightning.cli import main
from quail_lightning.command_line import doctor, examined_run
from quail_lightning.commands.findings import Finding
from quail_lightning.models.checkpoint import load_model


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, and a machine that is examined elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quail"])
    for name in ("versions", "room", "extras", "devices", "kernels", "formats"):
        monkeypatch.setattr(doctor, name, lambda name=name: [Finding(name, "looked at", "elsewhere")])


@pytest.fixture
def options(checkpoint, corpus_folder):
    return [
        "--config=quickstart.yaml",
        "--prepare=null",
        f"--model.target={checkpoint}",
        "--model.stop=null",
        "--evaluation.retrained=null",
        "--evaluation.precisions=[nf4]",
        "--evaluation.suite={verbmem_new_tokens: 8, knowmem_new_tokens: 4}",
        f"--data.corpus={corpus_folder}",
        "--data.newsroom=null",
        "--data.retain=[raw/retain1]",
        "--data.max_len=24",
        "--data.batch_size=2",
        "--data.max_forget_windows=6",
        "--data.max_retain_windows=6",
        "--trainer.accelerator=cpu",
    ]


def examined(*arguments):
    """Exit status, and the findings on the config by name; several of one name as a list."""
    try:
        main(["doctor", "--json=found.json", *arguments])
        status = 0
    except SystemExit as ended:
        status = ended.code
    told = json.loads(Path("found.json").read_text())
    assert told["ok"] == (status == 0)
    assert status in (0, 1)
    found = {}
    for each in told["sections"].get("config", []):
        found.setdefault(each["name"], []).append(each)
    return status, found


def test_a_machine_alone_is_examined_without_a_config(capsys):
    assert examined() == (0, {})
    assert "--config FILE examines a run as well" in capsys.readouterr().out


def test_what_a_run_takes_is_counted_and_nothing_is_left_behind(options, checkpoint):
    status, found = examined(*options, "--checkpoint.enabled=true")
    assert status == 0
    model = load_model(checkpoint, torch.float32)
    count = sum(parameter.numel() for parameter in model.parameters())
    exported, state = 2 * count + 32 * 2**20, 3 * count * 12  # bfloat16 and a margin; weight and two moments
    assert f"model {exported / 2**20:.1f} MiB" in found["disk"][0]["value"]
    assert f"checkpoints {state / 2**20:.1f} MiB" in found["disk"][0]["value"]
    assert found["first epoch"][0]["value"] == "3 batches, 12 windows in all"
    assert found["its length"][0]["value"] == "unknown: --measure times it"
    assert found["as fit reads it"][0]["value"] == "nothing blocks"
    assert [path.name for path in Path().iterdir()] == ["found.json"]


def test_the_first_epochs_length_is_measured_window_by_window(options, monkeypatch):
    monkeypatch.setattr(examined_run, "measured_step", lambda module, windows, batch_size: (30.0, 2))
    status, found = examined(*options, "--measure")
    assert status == 0
    assert found["its length"][0]["value"].startswith("at least 3 min: 15 s a window")  # 12 windows


def test_a_measurement_is_of_the_model_that_is_trained(options):
    status, found = examined(*options, "--measure")
    assert status == 0
    assert re.match(
        r"at least \S+ s: \S+ s a window, forward and backward, measured on 2;", found["its length"][0]["value"]
    )


def test_every_problem_is_said_at_once(options):
    changed = ["--data.corpus=nowhere", "--export.folder=mine", "--evaluation.sharded=true"]
    status, found = examined(*options, *changed)
    said = " ".join(each["value"] for each in found["as fit reads it"])
    assert status == 1
    assert len(found["as fit reads it"]) == 2
    assert "nowhere" in said
    assert "a sharded evaluation needs FSDP2" in said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.alhpa=2", "Did you mean 'model.alpha'"),
        ("--model.alpha=-1", "alpha and gamma must be finite and not negative"),
        ("--evaluation.precisions=[nf5]", "no such precision"),
        ("--trainer.gradient_clip_val=1.0", "model.clip_norm"),
        ("--model.target=nowhere", "nowhere"),
        ("--data.max_len=257", "257 tokens"),
        ("--model.trainable=[nosuch]", "nosuch"),
    ],
)
def test_what_fit_would_refuse_blocks(options, option, said):
    status, found = examined(*options, option)
    assert status == 1
    assert said in " ".join(each["value"] for each in found["as fit reads it"] if each["state"] == "blocks")
    assert [path.name for path in Path().iterdir()] == ["found.json"]


def test_a_disk_without_room_for_all_that_is_kept_blocks(options, monkeypatch):
    monkeypatch.setattr(examined_run, "free_room", lambda folder: 2**20)
    status, found = examined(*options)
    assert status == 1
    assert found["disk"][0]["state"] == "blocks"


def test_a_device_that_is_too_small_or_in_use_is_said_with_the_plan(options, monkeypatch):
    monkeypatch.setattr(examined_run, "device_capacity", lambda trainer: 8.0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**29, 2**33))
    status, found = examined(*options)
    assert status == 0
    assert found["memory"][0]["state"] == "note"
    assert "of 8.0, 0.5 free now" in found["memory"][0]["value"]
    monkeypatch.setattr(examined_run, "device_capacity", lambda trainer: 0.5)
    status, found = examined(*options)
    assert (status, found["memory"][0]["state"]) == (1, "blocks")


def test_models_that_the_recipe_makes_first_are_no_obstacle():
    status, found = examined("--config=quickstart.yaml", "--config=logger/csv.yaml")
    assert status == 0
    assert "fit makes it first" in found["target"][0]["value"]
    assert not Path("logs").exists()


def test_a_config_that_is_not_there_and_a_measurement_of_none_are_bad_input(capsys):
    for arguments, said in (["--config=nosuch.yaml"], "no config file"), (["--measure"], "none is given"):
        with pytest.raises(SystemExit) as ended:
            main(["doctor", *arguments])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_what_blocks_the_machine_is_the_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(
        doctor, "versions", lambda: [Finding("versions", "torch", "not installed", "blocks", "[it]")]
    )
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    assert "not installed. [it]" in capsys.readouterr().out


def test_memory_that_runs_out_while_it_is_measured_blocks(options, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(examined_run, "measured_step", fail)
    status, found = examined(*options, "--measure")
    assert status == 1
    assert "memory is short" in found["its length"][0]["value"]
