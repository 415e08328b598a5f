"""What does not go together with an adapter, refused before a weight is loaded."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer

from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_config
from quail_lightning.models.empty import empty_model
from quail_lightning.objectives import MeasuredStep, Term
from quail_lightning.unlearning.adapter import Adapter
from quail_lightning.unlearning.generic_labels import GenericLabels
from quail_lightning.unlearning.optimizers import WeightPrecision
from quail_lightning.unlearning.saliency import Saliency
from quail_lightning.unlearning.sharding import shards
from quail_lightning.unlearning.trainable import Trainable


def check_options(
    adapter: Adapter | None, trainable: Trainable, saliency: Saliency | None, weight_precision: WeightPrecision
) -> None:
    """Refuse other options that choose what is trained, and in which dtype.

    Raises:
        InputError: naming both.
    """
    if adapter is None:
        return
    if trainable != "all":
        raise InputError(
            "model.adapter freezes all weights, and model.trainable chooses among them",
            given=f"model.trainable: {trainable}",
            remedy="Leave model.trainable at all; model.adapter.targets chooses the layers",
        )
    if saliency is not None:
        raise InputError(
            "model.saliency (SURE) chooses modules by the gradient of their weights, and an adapter freezes those",
            remedy="Leave out either model.saliency or model.adapter",
        )
    if weight_precision != "float32":
        raise InputError(
            "an adapter's own weights are float32 masters",
            given=f"model.weight_precision: {weight_precision}",
            remedy="Leave model.weight_precision at float32; model.adapter.base says how the frozen weights lie",
        )


def check_run(adapter: Adapter | None, trainer: Trainer, labels: GenericLabels | None, hinge: Term | None) -> None:
    """Refuse strategies and preparations that need something else than a whole, frozen base.

    Raises:
        InputError: with the remedy.
    """
    if adapter is None:
        return
    if shards(trainer):
        raise InputError(
            "an adapter is trained on a base that lies whole on each device, and FSDP2 spreads it",
            given="trainer.strategy: ModelParallelStrategy",
            remedy="Use --config trainer/ddp.yaml or one device; model.adapter.base: nf4 takes a quarter of that",
        )
    if adapter.base != "nf4":
        return
    if labels is not None:
        raise InputError(
            "generic labels train a copy of the target, and 4-bit weights cannot be trained",
            given="model.adapter.base: nf4",
            remedy="Set model.adapter.base to bfloat16",
        )
    if isinstance(step := getattr(hinge, "step", None), MeasuredStep):
        raise InputError(
            "a hinge's step is measured by quantizing the target, and an nf4 base is quantized already",
            given=f"model.hinge.init_args.step: {step}",
            remedy="Measure it in a run with model.adapter.base: bfloat16 (its log says it), and give the number",
        )


def check_layers(adapter: Adapter | None, target: str) -> None:
    """See that the layers that are to be adapted are in the target's architecture.

    Raises:
        InputError: see ``Adapter.layers``.
    """
    if adapter is not None:
        adapter.layers(empty_model(load_config(target), torch.float32))


def check_own_folder(adapter: Adapter | None, is_task_vector: bool, base_is_adapter: bool) -> None:
    """Refuse ``export.merge: false`` where no adapter alone says what was trained.

    Args:
        adapter: of the module.
        is_task_vector: the target is moved against what was trained.
        base_is_adapter: the start is an adapter's folder itself.

    Raises:
        InputError: naming the option.
    """
    if adapter is None:
        why, remedy = (
            "no adapter is trained",
            "Set model.adapter (--config adapter/lora.yaml), or leave it at true",
        )
    elif is_task_vector:
        why, remedy = "a task vector is negated in the merged weights", "Leave export.merge at true"
    elif base_is_adapter:
        why = "the start is an adapter itself, and one adapter is not the base of another"
        remedy = "Leave export.merge at true, or start from the merged model (quail quantize START --to bf16)"
    else:
        return
    raise InputError(f"export.merge: false writes the adapter alone, and {why}", remedy=remedy)
