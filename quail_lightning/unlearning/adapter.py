"""Training a LoRA adapter in place of the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from quail_lightning.errors import InputError, check_choice
from quail_lightning.models.arithmetic import hold_for_computing
from quail_lightning.models.checkpoint import load_config, load_model, stored_dtype
from quail_lightning.models.empty import empty_model
from quail_lightning.quantization import BitsAndBytes
from quail_lightning.quantization.body_weights import body_weights, dense_names
from quail_lightning.run.seeds import global_seed, named_key
from quail_lightning.unlearning.trainable import matching_names

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel

Base = Literal["bfloat16", "float32", "nf4"]
ADAPTED = "default"  # peft's name of a model's only adapter
FROZEN = "base_layer."  # what peft puts into the name of a weight that it adapts


@dataclass(frozen=True)
class Adapter:
    """LoRA (Hu et al. 2021) on linear layers of the body: W' = W + alpha / rank · B A. Only A and B are trained,
    in float32; B starts at 0, so that the first step's outputs are the base's to the last bit.

    With ``base: nf4`` this is QLoRA (Dettmers et al. 2023): the base lies in 4 bits while the adapter is trained,
    and what the terms compare with are the outputs of the target in the same 4 bits. What is evaluated and saved
    is the adapter merged with the start's own weights. It was not trained against these: the base's quantization
    error, which it may have learned to make up for, is gone.

    Attributes:
        rank: of each change; larger can change more, and takes more memory.
        alpha: larger makes each change larger at the same A and B.
        dropout: of a layer's input to A, in training steps alone.
        targets: ``all-linear``: every linear layer of the body; or patterns of their names, such as ``*.q_proj``.
        base: dtype in which the frozen weights lie, or ``nf4``; they do not move, so 16 bits lose nothing of a
            bfloat16 checkpoint.
        double_quantization: of nf4's scales (QLoRA, section 3): 0.4 bits less for each weight.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: Literal["all-linear"] | list[str] = "all-linear"
    base: Base = "bfloat16"
    double_quantization: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError("model.adapter.rank must be at least 1", given=self.rank)
        if not 0 < self.alpha < math.inf:
            raise InputError("model.adapter.alpha must be a positive number", given=self.alpha)
        if not 0 <= self.dropout < 1:
            raise InputError("model.adapter.dropout must be at least 0 and below 1", given=self.dropout)
        check_choice("model.adapter.base", self.base, ("bfloat16", "float32", "nf4"))
        if self.double_quantization and self.base != "nf4":
            raise InputError("double quantization is of nf4's scales", given=f"model.adapter.base: {self.base}")
        if isinstance(self.targets, str) and self.targets != "all-linear":
            raise InputError(
                "model.adapter.targets names layers by a list of patterns",
                given=self.targets,
                allowed="all-linear",
            )

    @property
    def dtype(self) -> torch.dtype:
        """Of what of the base is not in 4 bits, and of the products with what is."""
        return torch.float32 if self.base == "float32" else torch.bfloat16

    @property
    def held_as(self) -> str:
        """What tells one base of the same checkpoint from another, for the reference's cache."""
        if self.base != "nf4":
            return str(self.dtype)
        return "nf4, double quantization" if self.double_quantization else "nf4"

    def holds(self, checkpoint: str) -> bool:
        """Whether the base in memory has a checkpoint's own weights, so that merging needs no others."""
        return self.base == "float32" or (self.base, stored_dtype(checkpoint)) == ("bfloat16", torch.bfloat16)

    def quantized(self, checkpoint: str, device: torch.device) -> PreTrainedModel:
        """A checkpoint on the device, its body's linear layers in nf4.

        Raises:
            InputError: see ``load_model``.
        """
        import bitsandbytes as bnb

        model = hold_for_computing(load_model(checkpoint, self.dtype), device)
        nn.Module.to(model, device)
        quantized = BitsAndBytes("nf4", self.double_quantization).quantize(model)
        for module in quantized.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                # on CPUs with bfloat16 instructions a layer that was read in evaluation mode is packed anew for a
                # product without a backward pass: gradients below it would be wrong without a word
                module.support_avx512bf16_for_cpu = False
        return quantized

    def layers(self, model: PreTrainedModel) -> list[str]:
        """Names of the layers that get a change.

        Args:
            model: the architecture, not quantized; may be on the meta device.

        Raises:
            InputError: a pattern fits none, or much of the body lies in no linear layer.
        """
        names = [name.removesuffix(".weight") for name in dense_names(model)]
        if any("Mamba" in type(module).__name__ for module in model.modules()):
            raise InputError(
                f"{type(model).__name__} has state-space mixers, which read weights past their layers",
                remedy="Train the weights themselves (model.adapter: null)",
            )
        if self.targets != "all-linear":
            return matching_names(names, self.targets, "model.adapter.targets", "linear layers")
        if stacked := [each.name for each in body_weights(model) if "experts" in each.layout]:
            raise InputError(
                f"{type(model).__name__} holds stacked experts ({stacked[0]}, ...), which are no linear layers",
                remedy="Name the layers that are to be adapted by model.adapter.targets, such as ['*_proj']",
            )
        return names

    def inject(self, model: PreTrainedModel, checkpoint: str) -> None:
        """Freeze a model and give its layers a change that is 0 yet; in place.

        A's draws follow from ``seed_everything`` and the layer's name alone: all processes draw the same.

        Args:
            model: the base.
            checkpoint: of its architecture.
        """
        from peft import LoraConfig, inject_adapter_in_model

        model.requires_grad_(False)
        plain = empty_model(load_config(checkpoint), torch.float32)
        layers = self.layers(plain)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # a factor, whole or not
            lora_dropout=self.dropout,
            target_modules=layers,
            fan_in_fan_out=any(each.layout == "conv1d" for each in body_weights(plain)),
        )
        with isolate_rng():
            inject_adapter_in_model(config, model, adapter_name=ADAPTED)
        made = adapted_layers(model)
        assert made.keys() == set(layers)
        for name, layer in made.items():
            a, b = matrices(layer)
            generator = torch.Generator().manual_seed(named_key(global_seed(), name))
            drawn = torch.empty(a.shape, device="cpu")
            nn.init.kaiming_uniform_(drawn, math.sqrt(5), generator=generator)
            for parameter, values in ((a, drawn), (b, torch.zeros(b.shape, device="cpu"))):
                parameter.data = values.to(parameter.device)  # float32, whatever the base lies in
                parameter.requires_grad_(True)


def is_adapted(model: nn.Module) -> bool:
    """Whether a model's layers have changes of their own."""
    return hasattr(model, "peft_config")


def peft_config(model: PreTrainedModel) -> LoraConfig:
    """What peft notes of an adapted model's adapter."""
    configs: Any = model.peft_config
    found: LoraConfig = configs[ADAPTED]
    return found


def adapted_layers(model: PreTrainedModel) -> dict[str, LoraLayer]:
    """Name → layer with a change, of an adapted model."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def matrices(layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    """A [rank, inputs] and B [outputs, rank], float32."""
    a: Any = layer.lora_A[ADAPTED]
    b: Any = layer.lora_B[ADAPTED]
    return a.weight, b.weight


def trained_alone(module: nn.Module, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a module's states those of its trained weights: all that a training checkpoint needs beside the base."""
    names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in states.items() if name in names}


def refuse_other_states(module: nn.Module, states: Mapping[str, Tensor]) -> None:
    """Refuse a training checkpoint of another adapter: what it lacks would stay at 0 unseen.

    Raises:
        InputError: naming one of them.
    """
    wanted = {name: each.shape for name, each in module.named_parameters() if each.requires_grad}
    found = {name: value.shape for name, value in states.items()}
    if differing := sorted(name for name in wanted | found if wanted.get(name) != found.get(name)):
        raise InputError(
            f"the training checkpoint holds another adapter than the one that is trained ({differing[0]})",
            remedy="Resume with the same model.adapter",
        )
