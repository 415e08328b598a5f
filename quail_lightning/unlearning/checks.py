"""What the unlearning module refuses before a weight is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from quail_lightning.data.protocol import UnlearningData
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import check_fits, check_whole, load_config
from quail_lightning.models.empty import empty_model, stored_generation_config
from quail_lightning.models.saving import try_saving, weight_bytes
from quail_lightning.objectives import GradientDescent, MeasuredStep, Term
from quail_lightning.objectives.term import layer_number
from quail_lightning.objectives.weighting import Weights
from quail_lightning.quantization import check_quantizers, load_quantizer
from quail_lightning.quantization.body_weights import body_weights, matrix_names
from quail_lightning.unlearning.adapter_checks import check_layers
from quail_lightning.unlearning.adversary import LatentAdversary
from quail_lightning.unlearning.arithmetic import StepArithmetic
from quail_lightning.unlearning.fitting import sizes_of
from quail_lightning.unlearning.generic_labels import GenericLabels
from quail_lightning.unlearning.learning_rate import LearningRate
from quail_lightning.unlearning.optimizers import AdamStates
from quail_lightning.unlearning.ridge_edit import RidgeEdit, check_edited_layers
from quail_lightning.unlearning.saliency import Saliency
from quail_lightning.unlearning.sharding import shards
from quail_lightning.unlearning.sharpness import rounded_perturbation
from quail_lightning.unlearning.stopping import Stop
from quail_lightning.unlearning.trainable import Trainable, matching_names

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule

PRECISIONS = ("bf16-mixed", "32-true")
"""Supported ``trainer.precision``."""


def notices(module: UnlearningModule, data: UnlearningData) -> list[str]:
    """What is allowed, and hardly meant.

    Args:
        module: attached to its trainer.
        data: its data module, set up.
    """
    counts = {"forget": len(data.served.trained.forget)}
    if module.retain is not None:
        counts["retain"] = len(data.served.trained.retain)
    return [
        *idle_terms(module.weights, module.retain, module.hinge, moves=module.dual is not None),
        *rounded_perturbation(module.sam, module.trainer.precision),
        *oversized_batches(data.batch_size, module.trainer.world_size, counts),
    ]


def check_parts(module: UnlearningModule, retain: Tensor, layers: int) -> None:
    """Refuse what names weights, layers or windows that are not there.

    Args:
        module: that is to be trained.
        retain: [n, time] windows of the retain set.
        layers: of the target.

    Raises:
        InputError: naming the option.
    """
    if module.retain is not None:
        check_retain_set(retain)
    for layer in module.adversary.layers if module.adversary is not None else ():
        layer_number(layer, layers)
    check_names(module.trainable, module.target)
    check_edited_layers(module.ridge_edit, module.trainable, module.target, retain)
    check_layers(module.adapter, module.target)
    check_saliency(module.saliency, module.target)
    check_measured_step(module.hinge, module.target)
    if module.perturbation is not None:
        module.perturbation.check(empty_model(load_config(module.target), torch.float32))


def check_numbers(
    learning_rate: LearningRate,
    clip_norm: float | None,
    weight_decay: float,
    betas: tuple[float, float],
    micro_batch_size: int | None,
    loss_chunk: int | None,
) -> None:
    """Refuse numbers outside their range.

    Raises:
        InputError: naming the option.
    """
    for name, value in (("learning_rate", learning_rate), ("clip_norm", clip_norm)):
        if value is not None and value != "auto" and not 0 < value < math.inf:
            raise InputError(f"model.{name} must be a positive number", given=value)
    if not 0 <= weight_decay < math.inf:
        raise InputError("model.weight_decay must be 0 or a positive number", given=weight_decay)
    if not all(0 <= beta < 1 for beta in betas):
        raise InputError("model.betas must be two numbers, each at least 0 and below 1", given=betas)
    if micro_batch_size is not None and micro_batch_size < 1:
        raise InputError("model.micro_batch_size must be at least 1 window", given=micro_batch_size)
    if loss_chunk is not None and loss_chunk < 1:
        raise InputError("model.loss_chunk must be at least 1 token", given=loss_chunk)


def idle_terms(weights: Weights, retain: Term | None, hinge: Term | None, moves: bool = False) -> list[str]:
    """A sentence for each term of the loss that has no weight, and for each weight that has no term.

    Args:
        weights: of the terms.
        retain: the retain term.
        hinge: the hinge.
        moves: whether a dual variable moves the retain term's weight.
    """
    told = {
        "forget": (weights.forget, "model.alpha 0 under weighting convex gives the forget term no weight"),
        "retain": (
            weights.retain if retain is not None and not moves else 1.0,
            "model.alpha gives the retain term no weight",
        ),
        "hinge": (weights.hinge if hinge is not None else 1.0, "model.gamma 0 gives the hinge no weight"),
    }
    found = [f"{said}: it is computed and changes nothing." for weight, said in told.values() if weight == 0]
    if retain is None and weights.retain not in (0, 1):
        found.append("model.alpha changes nothing: there is no retain term to weigh against.")
    if hinge is None and weights.hinge not in (0, 1):
        found.append("model.gamma changes nothing: there is no hinge.")
    return found


def oversized_batches(batch_size: int, processes: int, counts: Mapping[str, int]) -> list[str]:
    """A sentence for each set that one step takes as a whole.

    Args:
        batch_size: windows of a set in one step, a process.
        processes: that train together.
        counts: set → its windows.
    """
    size = f"{batch_size} windows" + ("" if processes == 1 else f" on each of {processes} devices")
    return [
        f"data.batch_size ({size}) is larger than the {name} set ({count}): every step takes all of it."
        for name, count in counts.items()
        if 0 < count < batch_size * processes
    ]


def check_generic_labels(labels: GenericLabels | None, forget: Term, adversary: LatentAdversary | None) -> None:
    """Refuse what generic labels make no sense with.

    Raises:
        InputError: they are not learned, or an adversary would bring them back instead of the text.
    """
    if labels is None:
        return
    if not isinstance(forget, GradientDescent):
        raise InputError(
            "model.generic_labels are there to be learned",
            given=f"model.forget: {type(forget).__name__}",
            allowed="model.forget: quail_lightning.objectives.GradientDescent",
        )
    if adversary is not None:
        raise InputError("an adversary would bring the generic labels back, not the text", given=adversary)


def check_stop(stop: Stop | None, forget: Term, adversary: LatentAdversary | None) -> None:
    """Refuse an end of forgetting that is none.

    Raises:
        InputError: no positive number; a forget term that lowers the NLL whose rise is to end it; or an adversary,
            under whose perturbation the forget steps see another NLL than the model's own.
    """
    if stop is None:
        return
    if stop != "retrained" and not 0 < stop < math.inf:
        allowed = "retrained, or a positive number"
        raise InputError("model.stop is an NLL in nats a token", given=stop, allowed=allowed)
    if isinstance(forget, GradientDescent):
        raise InputError(
            "model.stop waits for the forget windows' NLL to rise, and GradientDescent as forget term lowers it",
            given=f"model.stop: {stop}",
            remedy="Set model.stop to null",
        )
    if adversary is not None:
        raise InputError(
            "model.stop waits for the NLL without a perturbation, which the steps against an adversary do not see",
            given=f"model.stop: {stop}",
            remedy="Set model.stop to null",
        )


def check_combination(
    weighting: str, retain: Term | None, trainable: Trainable, saliency: Saliency | None, weight_decay: float
) -> None:
    """Refuse options that contradict each other.

    Raises:
        InputError: naming both.
    """
    if weighting == "convex" and retain is None:
        raise InputError("weighting 'convex' shares α between forget and retain, and there is no retain term")
    if saliency is None:
        return
    if trainable not in ("all", "quantized"):
        raise InputError(
            "model.saliency chooses what is trained, and so does model.trainable",
            given=trainable,
            remedy="Leave model.trainable at all",
        )
    if saliency.granularity == "head" and weight_decay:
        raise InputError(
            "weight decay would also move the heads that are not salient",
            given=weight_decay,
            remedy="Set model.weight_decay to 0, or saliency.granularity to module",
        )


def check_precision(precision: Any) -> None:
    """Refuse arithmetic that the module does not do right.

    Raises:
        InputError: half precision scales losses, which clipping here does not undo; the ``true`` precisions
            cast the rotary frequencies along with the weights.
    """
    if precision not in PRECISIONS:
        raise InputError(
            "trainer.precision is not supported",
            given=precision,
            allowed=", ".join(PRECISIONS),
            remedy="For bfloat16 weights set model.weight_precision: bf16-stochastic or bf16-nearest",
        )


def check_strategy(
    strategy: Any,
    labels: GenericLabels | None = None,
    hinge: Term | None = None,
    adam_states: AdamStates = "full",
    edit: RidgeEdit | None = None,
) -> None:
    """Refuse strategies that do not train this module right, and what needs a whole model under FSDP2.

    Raises:
        InputError: naming what is supported.
    """
    from lightning.pytorch.strategies import (
        DDPStrategy,
        DeepSpeedStrategy,
        FSDPStrategy,
        ModelParallelStrategy,
        SingleDeviceStrategy,
    )

    allowed = (
        "one device; ddp (configs/trainer/ddp.yaml); ModelParallelStrategy, that is FSDP2 (trainer/fsdp.yaml)"
    )
    if isinstance(strategy, FSDPStrategy):
        raise InputError(
            "FSDP1 does not clip or step right under manual optimization (Lightning issues 19626 and 19685)",
            given="trainer.strategy: fsdp",
            allowed=allowed,
        )
    known = (SingleDeviceStrategy, DDPStrategy, ModelParallelStrategy)
    if isinstance(strategy, DeepSpeedStrategy) or not isinstance(strategy, known):
        raise InputError(
            "the strategy is not supported", given=f"trainer.strategy: {type(strategy).__name__}", allowed=allowed
        )
    if not isinstance(strategy, ModelParallelStrategy):
        return
    if adam_states == "offloaded":
        raise InputError(
            "offloaded optimizer states are for weights that lie whole on one device, and FSDP2 spreads both",
            given="model.adam_states: offloaded",
            remedy="Leave model.adam_states at full under FSDP2, or train on one device",
        )
    if edit is not None:
        raise InputError(
            "model.ridge_edit multiplies weights that lie whole on one device, and FSDP2 spreads them",
            remedy="Train under DDP or on one device",
        )
    if labels is not None:
        raise InputError(
            "generic labels train a second model that lies whole on one device, and FSDP2 spreads models",
            remedy="Train under DDP or on one device",
        )
    step = getattr(hinge, "step", None)
    if isinstance(step, MeasuredStep):
        raise InputError(
            "a hinge's step is measured on a model that lies whole on one device",
            given=f"model.hinge.init_args.step: {step}",
            remedy="Measure it in a run on one device (its log says it), and give the number",
        )


def check_checkpoints(checkpoints: Iterable[str], tokenizer: Any, max_len: int) -> None:
    """See that models can read windows of ``max_len`` tokens made by ``tokenizer``."""
    for checkpoint in checkpoints:
        check_fits(load_config(checkpoint), tokenizer, max_len)


def check_whole_models(module: UnlearningModule, trainer: Trainer, *others: str) -> None:
    """Refuse checkpoints that are not whole, before any weight is loaded: target, start and ``others``.

    Raises:
        InputError: see ``check_whole``.
    """
    share = 1 / trainer.world_size if shards(trainer) else 1.0
    held = StepArithmetic(trainer, module.weight_precision, module.adapter).held_dtype
    for checkpoint in dict.fromkeys((module.target, module.start or module.target, *others)):
        check_whole(checkpoint, held, share)


def check_export(module: UnlearningModule, folder: Path, copies: int = 1, adapter_alone: bool = False) -> None:
    """Try to save a module's model, before it is trained, everything but the weights.

    Args:
        module: attached to its trainer.
        folder: where the model is to be saved.
        copies: how many will lie there at once.
        adapter_alone: no model is to be saved but the adapter, in float32.

    Raises:
        InputError: see ``try_saving``.
    """
    start = module.start or module.target
    model = empty_model(load_config(start), module.export_dtype)
    model.generation_config = stored_generation_config(start, model)
    size = copies * weight_bytes(model, module.export_dtype)
    if adapter_alone:
        size = sizes_of(module.memory_options).trained * torch.float32.itemsize
    try_saving(model, load_tokenizer(module.target), folder, size)


def check_retain_set(windows: Tensor) -> None:
    """Refuse a retain term without retain windows.

    Raises:
        InputError: there are none.
    """
    if not len(windows):
        raise InputError(
            "the method has a retain term, and the data has no retain set",
            remedy="Name retain text, or set model.retain to null (ascent alone takes the utility with it)",
        )


def check_measured_step(hinge: Term | None, target: str) -> None:
    """See that the precision by which a hinge's step is to be measured exists, and fits the target.

    Raises:
        InputError: naming those that do; or why it does not.
    """
    step = getattr(hinge, "step", None)
    if isinstance(step, MeasuredStep):
        check_quantizers(load_config(target), {step.precision: load_quantizer(step.precision)})


def check_saliency(saliency: Saliency | None, checkpoint: str) -> None:
    """See that the modules SURE chooses among are all linear layers.

    Raises:
        InputError: the checkpoint keeps others where its knowledge is.
    """
    if saliency is None:
        return
    model = empty_model(load_config(checkpoint), torch.float32)
    if others := [each.name for each in body_weights(model) if each.layout not in ("linear", "other")]:
        raise InputError(
            f"model.saliency chooses among linear layers, and {type(model).__name__} has others "
            f"({others[0]}, ...)",
            remedy="Leave model.saliency out for this architecture",
        )


def check_names(trainable: Trainable, checkpoint: str) -> None:
    """See that what is to be trained is in the checkpoint's architecture, without its weights.

    Raises:
        InputError: naming the patterns that fit nothing.
    """
    if trainable == "all":
        return
    model = empty_model(load_config(checkpoint), torch.float32)
    if isinstance(trainable, str):
        matrix_names(model)
        return
    matching_names([name for name, _ in model.named_parameters()], trainable)
