"""The order in which callbacks are given changes nothing."""

import hashlib

import pytest
import torch
from lightning.pytorch import Callback
from plain_trainer import plain_trainer

from quail_lightning.callbacks import BucketOverlap, ExportModel, KeepBest, QuantizedEvaluation, TrainingCheckpoint
from quail_lightning.data import MuseDataModule
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.run.training_state import last_checkpoint
from quail_lightning.unlearning import UnlearningModule

SUITE = EvaluationSuite(batch_size=4, verbmem_new_tokens=8, knowmem_new_tokens=4)


class Watched(QuantizedEvaluation):
    """Notes which checkpoint lies on disk when an epoch is evaluated."""

    def on_train_epoch_end(self, trainer, pl_module):
        self.found = [*getattr(self, "found", []), last_checkpoint(self.run).step]
        super().on_train_epoch_end(trainer, pl_module)


class Listener(Callback):
    """A stranger's callback among them."""


def fit(folder, corpus_folder, checkpoint, arranged):
    torch.manual_seed(7)
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24, max_forget_windows=4)
    unlearning = UnlearningModule(checkpoint, GradientAscent(), GradientDescent(), learning_rate=1e-3)
    watched = Watched(["nf4"], suite=SUITE, max_windows=3, retrained=checkpoint)
    watched.run = folder
    callbacks = [
        TrainingCheckpoint(True),
        watched,
        KeepBest(True, ["bf16", "nf4"], forget_nll=0.1, max_prompts=2),
        BucketOverlap(),
        ExportModel(),
        Listener(),
    ]
    trainer = plain_trainer(
        max_epochs=2,
        precision="32-true",
        callbacks=arranged(callbacks),
        default_root_dir=folder,
    )
    trainer.fit(unlearning, datamodule=data)
    return watched.found


def digests(folder):
    """What is left of a run, but for times, paths and the checkpoints' own files."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    kept = {"results.json", "validation.json", "model.safetensors", "README.md", "verbmem_forget.json"}
    return {
        str(name): hashlib.sha256(path.read_bytes().replace(str(folder).encode(), b"")).hexdigest()
        for name, path in sorted(files.items())
        if path.name in kept and "checkpoints" not in path.parts
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory, corpus_folder, checkpoint):
    folder = tmp_path_factory.mktemp("as-shipped")
    fit(folder, corpus_folder, checkpoint, list)
    return digests(folder)


@pytest.mark.parametrize(
    "arranged",
    [lambda given: given[::-1], lambda given: [given[number] for number in (4, 2, 0, 5, 3, 1)]],
    ids=["reversed", "mixed"],
)
def test_callbacks_in_another_order_leave_the_same(arranged, expected, tmp_path, corpus_folder, checkpoint):
    found = fit(tmp_path, corpus_folder, checkpoint, arranged)
    assert found == [2, 4], "each epoch's checkpoint lay on disk before its evaluation"
    assert digests(tmp_path) == expected
    assert {"results.json", "validation.json", "model/model.safetensors", "model/README.md"} <= expected.keys()
    assert "nothing to forget" in (tmp_path / "model/README.md").read_text(), "the card has no verdict"
