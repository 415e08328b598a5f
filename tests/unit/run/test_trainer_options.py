"""What Lightning refuses is refused in our words, with the option that it concerns."""

import pytest
from lightning.pytorch import Trainer

from quail_lightning.errors import InputError
from quail_lightning.run.trainer_options import check_options, explained_refusals, is_refusal

QUIET = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_epochs": -3}, "trainer.max_epochs: -3"),
        ({"max_steps": -5}, "trainer.max_steps: -5"),
        ({"max_time": "soon"}, "max_time: 'soon'"),
        ({"accelerator": "tpu"}, "torch_xla"),
        ({"accelerator": "nosuch"}, "trainer.accelerator: nosuch"),
        ({"devices": 0}, "trainer.devices: 0"),
        ({"devices": -3}, "trainer.devices: -3"),
        ({"devices": "many"}, "trainer.devices: many"),
        ({"strategy": "nosuch"}, "trainer.strategy: nosuch"),
        ({"precision": "8"}, "trainer.precision: 8"),
        ({"num_nodes": 0}, "trainer.num_nodes: 0"),
        ({"limit_train_batches": 1.5}, "trainer.limit_train_batches: 1.5"),
        ({"val_check_interval": -1}, "trainer.val_check_interval: -1"),
        ({"fast_dev_run": -1}, "trainer.fast_dev_run: -1"),
        ({"profiler": "nosuch"}, "trainer.profiler: nosuch"),
        ({"reload_dataloaders_every_n_epochs": -1}, "trainer.reload_dataloaders_every_n_epochs: -1"),
    ],
    ids=str,
)
def test_lightnings_own_refusal_names_the_option(options, said):
    with pytest.raises(InputError) as refused, explained_refusals(options):
        Trainer(**QUIET | options)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_accelerator_says_what_the_machine_has(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("lightning.pytorch.accelerators.cuda.CUDAAccelerator.is_available", lambda: False)
    monkeypatch.setattr("lightning.pytorch.accelerators.mps.MPSAccelerator.is_available", lambda: False)
    with pytest.raises(InputError, match=r"trainer.accelerator: gpu.*no GPUs.*accelerator: auto"):  # noqa: SIM117
        with explained_refusals({"accelerator": "gpu"}):
            Trainer(**QUIET | {"accelerator": "gpu"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gradient_clip_val": 0.5}, r"trainer.gradient_clip_val: 0.5.*Set model.clip_norm: 0.5"),
        ({"gradient_clip_algorithm": "value"}, r"model.clip_norm"),
        ({"accumulate_grad_batches": 4}, r"accumulate_grad_batches: 4.*data.batch_size.*model.micro_batch_size"),
        ({"check_val_every_n_epoch": 0}, r"trainer.check_val_every_n_epoch must be at least 1; got 0"),
        ({"log_every_n_steps": -1}, r"trainer.log_every_n_steps"),
        ({"barebones": True}, r"trainer.barebones"),
    ],
    ids=str,
)
def test_what_lightning_would_notice_late_names_our_option(options, said):
    (problem,) = check_options(options)
    assert problem.args[0]
    with pytest.raises(InputError, match=said):
        raise problem


def test_defaults_are_fine():
    assert check_options({"gradient_clip_val": None, "accumulate_grad_batches": 1, "max_epochs": 3}) == []


def test_a_bug_of_ours_stays_one():
    with pytest.raises(ValueError, match="ours") as kept, explained_refusals({}):
        raise ValueError("ours")
    assert not is_refusal(kept.value)
