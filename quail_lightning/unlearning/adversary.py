"""Latent adversarial training: unlearn under the perturbation that brings the text back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quail_lightning.data.batch import TokenBatch
from quail_lightning.errors import InputError
from quail_lightning.objectives import GradientDescent
from quail_lightning.objectives.term import Layer, layer_number
from quail_lightning.reference import FrozenOutputs
from quail_lightning.unlearning.losses import Forward, term_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LatentAdversary:
    """Projected gradient descent on hidden states (Sheshadri et al. 2024); with RMU's terms it is RMU_LAT.

    In every forget step the adversary first looks for perturbations of the named layers' outputs that make the
    forget text most likely again; the forget term is then computed under them.

    Attributes:
        layers: decoder layers whose outputs are perturbed, from 0 or as shares of the depth. Before the layer
            that RMU steers: what comes after it does not reach its loss.
        radius: ε, the largest L2 norm of a token's perturbation, in units of the layer's output.
        steps: of the adversary.
        step_size: length of one step, as a share of the radius.
    """

    layers: Sequence[Layer] = (0.125,)
    radius: float = 2.0
    steps: int = 6
    step_size: float = 0.25

    def __post_init__(self) -> None:
        for name in ("radius", "step_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"the adversary's {name} must be positive", given=getattr(self, name))
        given = {"layers": self.layers, "steps": self.steps}
        if self.steps < 1 or not self.layers:
            raise InputError("an adversary needs a layer and at least 1 step", given=given)

    def attack(
        self,
        model: PreTrainedModel,
        batch: TokenBatch,
        forward: Forward,
        dtype: torch.dtype,
        chunk: int | None = None,
    ) -> dict[int, Tensor]:
        """Perturbations that bring a model back to the forget text.

        Args:
            model: the model being unlearned; its gradients are left alone.
            batch: forget windows.
            forward: the body's forward pass.
            dtype: of the head's product.
            chunk: tokens whose logits are held at once, as in ``term_losses``.

        Returns:
            decoder layer → [batch, time, width], without gradient.
        """
        text = model.config.get_text_config()
        recall, unread = {"nll": GradientDescent()}, FrozenOutputs()

        def nll(shifts: Mapping[int, Tensor]) -> Tensor:
            return term_losses(model, recall, batch, unread, forward, dtype, shifts, chunk)["nll"]

        return self.search(
            nll,
            (*batch.input_ids.shape, text.hidden_size),
            [layer_number(layer, text.num_hidden_layers) for layer in self.layers],
            # not made by new_zeros of a weight, which may be sharded
            torch.empty(0, dtype=next(model.parameters()).dtype, device=batch.input_ids.device),
        )

    def search(
        self,
        loss: Callable[[Mapping[int, Tensor]], Tensor],
        shape: Sequence[int],
        layers: Sequence[int],
        like: Tensor,
    ) -> dict[int, Tensor]:
        """The descent itself.

        Args:
            loss: perturbations → what the adversary makes small.
            shape: of each perturbation; the last axis is the one whose norm is bounded.
            layers: the layers' numbers.
            like: gives dtype and device.
        """
        found = {layer: like.new_zeros(*shape) for layer in layers}
        for _ in range(self.steps):
            with torch.enable_grad():
                leaves = {layer: shift.requires_grad_() for layer, shift in found.items()}
                gradients = torch.autograd.grad(loss(leaves), list(leaves.values()))
            for (layer, shift), gradient in zip(leaves.items(), gradients, strict=True):
                length = self.radius * self.step_size
                moved = shift.detach() - length * torch.nn.functional.normalize(gradient, dim=-1)
                norm = moved.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(moved.dtype).tiny)
                found[layer] = moved * (self.radius / norm).clamp(max=1)
        return found
