"""What of a run decides whether its figures may stand beside published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from quail_lightning.data.protocol import data_of
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.unlearning.method_name import method_of

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule

MODEL = ("target", "start", "alpha", "gamma", "learning_rate", "schedule", "weighting", "stop")
WEIGHTS = ("clip_norm", "weight_precision", "trainable", "weight_decay", "betas")  # how they are moved


def run_setting(module: UnlearningModule, trainer: Trainer, suite: EvaluationSuite) -> dict[str, Any]:
    """The method and every option that a row of ``published.yaml`` may name → the run's value.

    Where the corpus and the retrained model lie is not among them: the same files may lie in any folder.
    """
    data = data_of(trainer)
    found: dict[str, Any] = {"method": method_of(module, data), "trainer.max_epochs": trainer.max_epochs}
    options = {
        "model": (module, (*MODEL, *WEIGHTS)),
        "model.forget": (module.forget, ("beta",)),
        "model.hinge": (module.hinge, ("step",)),
        "model.saliency": (module.saliency, ("percentile",)),
        "data": (data, ("max_len", "batch_size", "max_forget_windows", "max_retain_windows")),
        "evaluation.suite": (suite, ("protocol", "max_prompts", "max_texts", "prompt_end")),
    }
    for section, (owner, names) in options.items():
        found |= {f"{section}.{name}": getattr(owner, name, None) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
