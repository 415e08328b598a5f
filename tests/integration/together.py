"""One process of several: fits that the tests compare with one process's. Run by ``test_processes.py``."""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from safetensors.torch import save_file

from quail_lightning.cli import main as quail
from quail_lightning.data import MuseDataModule
from quail_lightning.models.sharded import whole
from quail_lightning.objectives import (
    DirectPreference,
    GradientAscent,
    GradientDescent,
    KLRetention,
    LogitHinge,
    MarginFlattening,
    Misdirection,
    NegativePreference,
    RepresentationRetention,
)
from quail_lightning.reference import CachedLogits, CachedStates, LiveReference
from quail_lightning.run.processes import end_together
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adapter import Adapter
from quail_lightning.unlearning.adversary import LatentAdversary
from quail_lightning.unlearning.dual import Dual
from quail_lightning.unlearning.perturbation import RandomFormats, WeightNoise
from quail_lightning.unlearning.ridge_edit import RidgeEdit
from quail_lightning.unlearning.saliency import Saliency
from quail_lightning.unlearning.sharpness import Sam
from quail_lightning.unlearning.sophia import Sophia

RATE, EPOCHS, WINDOWS = 1e-3, 10, 4  # windows in a step of all processes

# 7 forget windows in steps of 4: the last step has 3, and where it is divided by single windows one pass too few
SCENARIOS = {
    "alternate, hinge on cached states": {
        "hinge": lambda: LogitHinge(2.0),
        "schedule": "alternate",
        "micro_batch_size": 1,
        "reference": CachedStates,
    },
    "joint, NPO and KLR on cached logits": {
        "forget": NegativePreference,
        "retain": KLRetention,
        "schedule": "joint",
        "micro_batch_size": 1,
        "defer_gradient_sync": True,
        "reference": CachedLogits,
    },
    "epoch, hinge on a live reference": {
        "epochs": 5,  # of 5 steps; later the gradient shoots up, and rounding with it
        "hinge": lambda: LogitHinge(2.0),
        "schedule": "epoch",
        "reference": LiveReference,
        "gradient_checkpointing": True,
    },
    "DPO on pairs of answers": {
        "epochs": 20,  # of one step: the small newsroom asks two questions
        "forget": lambda: DirectPreference(0.01),  # a loss that does not come near 0
        "schedule": "joint",
        "micro_batch_size": 1,
        "data": {"alternates": "idk", "max_len": 128},
    },
    "SURE by head": {"saliency": Saliency(60.0, "head"), "schedule": "joint", "clip_norm": 0.01},
    "RMU against an adversary": {
        "forget": lambda: Misdirection(0),
        "retain": lambda: RepresentationRetention(0),
        "adversary": LatentAdversary(layers=(0,), steps=2),
        "schedule": "joint",
    },
    "stop, window by window": {"hinge": lambda: LogitHinge(2.0), "stop": 7.0, "micro_batch_size": 1},
    "NPO under SAM": {
        "forget": NegativePreference,
        "sam": Sam(0.1),
        "schedule": "joint",
        "micro_batch_size": 1,
        "defer_gradient_sync": True,
    },
    "stop in every format drawn": {
        "retain": KLRetention,
        "perturbation": RandomFormats(["none", "fp4", "uniform4-tensor"]),
        "stop": 7.0,
        "schedule": "joint",
        "micro_batch_size": 1,
    },
    "noise": {"perturbation": WeightNoise(0.05, 0.1), "schedule": "joint"},
    "a ridge edit": {"trainable": ["*.mlp.down_proj.weight"], "ridge_edit": RidgeEdit(), "schedule": "joint"},
    "PDU with its dual variable": {"forget": MarginFlattening, "dual": Dual(1.0, 0.5), "schedule": "joint"},
    "Sophia": {
        "forget": NegativePreference,  # ascent's gradient shoots up, and rounding with it
        "sophia": Sophia(rho=1.0, every_n_steps=3),
        "betas": (0.9, 0.95),
        "schedule": "joint",
        "micro_batch_size": 1,
    },
    "an adapter": {
        "hinge": lambda: LogitHinge(2.0),
        "adapter": Adapter(rank=4, base="float32"),
        "micro_batch_size": 1,
        "gradient_checkpointing": True,
    },
    "bf16-mixed": {"hinge": lambda: LogitHinge(2.0), "micro_batch_size": 2, "precision": "bf16-mixed"},
    "bf16-stochastic": {"weight_precision": "bf16-stochastic", "adam_states": "8bit", "precision": "bf16-mixed"},
}
# to save time; an adapter and a ridge edit are refused under FSDP2
LEFT_OUT = {"ddp": ("epoch", "RMU", "bf16-stochastic"), "fsdp": ("bf16-mixed", "an adapter", "a ridge edit")}


def scenarios(kind):
    """Names of those that run under a strategy."""
    return [name for name in SCENARIOS if not name.startswith(LEFT_OUT[kind])]


class Curve(Callback):
    """Every step's losses."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(name, folder, corpus, checkpoint, strategy="auto", processes=1):
    """One scenario; its curve, its final weights (whole), what it exports."""
    settings = {"forget": GradientAscent, "retain": GradientDescent} | SCENARIOS[name]
    precision, epochs = settings.pop("precision", "32-true"), settings.pop("epochs", EPOCHS)
    sizes = {"max_len": 24, "max_forget_windows": 7, "max_retain_windows": 9} | settings.pop("data", {})
    made = {key: value() if callable(value) else value for key, value in settings.items()}
    reference = made.pop("reference", None)
    seed_everything(0, verbose=False)
    weights = {"alpha": 2.0, "gamma": 3.0}
    module = UnlearningModule(target=checkpoint, learning_rate=RATE, reference=reference, **weights, **made)
    data = MuseDataModule(
        corpus,
        tokenizer=checkpoint,
        schedule=module.schedule,
        seed=0,
        batch_size=WINDOWS // processes,
        **sizes,
    )
    curve = Curve()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=processes,
        strategy=strategy,
        precision=precision,
        logger=False,
        callbacks=[curve],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0,
        check_val_every_n_epoch=epochs,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=data)
    weights = {key: whole(value.detach()).clone() for key, value in module.model.named_parameters()}
    exported = dict(module.export.whole_copy(module.model).named_parameters())
    salient = [] if module.saliency_map is None else module.saliency_map.salient
    return {"curve": curve.steps, "weights": weights, "exported": exported, "salient": salient, "module": module}


def save(found, out):
    """What the tests read of a fit."""
    out.mkdir(parents=True)
    (out / "told.json").write_text(json.dumps({key: found[key] for key in ("curve", "salient")}))
    for part in ("weights", "exported"):
        save_file({key: value.clone() for key, value in found[part].items()}, out / f"{part}.safetensors")


def main(folder, corpus, checkpoint, *commands):
    """Every scenario under both strategies, then whole commands, a JSON list each."""
    for kind, strategy in {"ddp": DDPStrategy, "fsdp": ModelParallelStrategy}.items():
        for name in scenarios(kind):
            found = fit(name, folder, corpus, checkpoint, strategy(), 2)
            if torch.distributed.get_rank() == 0:
                save(found, Path(folder) / kind / name)
    for command in commands:
        quail(json.loads(command))


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_together(0)
