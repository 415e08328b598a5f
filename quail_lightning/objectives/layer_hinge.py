"""A hinge on the decoder layers' outputs, each with its own margin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.hinge import hinge
from quail_lightning.functional.token_likelihood import mean_over_real
from quail_lightning.objectives.measured_step import MeasuredStep
from quail_lightning.objectives.term import Layer, Needs, TermInputs


class LayerHinge:
    """QUAIL's layer-wise margin (X-B): Eq. 14 on each decoder layer's output, with that layer's Δ_l.

    Logits have no layers, so the hinge acts on the hidden states of the forget windows, which the reference then
    keeps for every layer named.

    Args:
        layers: decoder layers from 0, or shares of the depth; None for all.
        step: Δ_l in units of the layer's output, one number for all; or how to measure each layer's own.
        dead_zone: differences of at most this count as none, in units of the layer's output.
    """

    short = "quail_layers"

    def __init__(
        self,
        layers: Sequence[Layer] | None = None,
        step: float | MeasuredStep = MeasuredStep(),  # noqa: B008 (frozen)
        dead_zone: float = 1e-4,
    ) -> None:
        if not isinstance(step, MeasuredStep) and not 0 < step < math.inf:
            raise InputError("the layer hinge's step must be positive and finite", given=step)
        if layers is not None and not layers:
            raise InputError("the layer hinge names no layer", given=layers, remedy="Leave layers out for all")
        if not 0 <= dead_zone < math.inf:
            raise InputError("the layer hinge's dead_zone must be 0 or a positive number", given=dead_zone)
        self.layers = None if layers is None else tuple(layers)
        self.step, self.dead_zone = step, dead_zone
        self.measured: dict[Layer, float] = {}  # layer → Δ_l, where they are measured

    @property
    def needs(self) -> Needs:
        """The layers' outputs, of the model and of the target."""
        return Needs(layers=self.layers, frozen=frozenset({"layers"}), mean_over="positions")

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over layers and over the positions of real tokens, in units of the layers' outputs."""
        hinges = [
            hinge(states, inputs.frozen_layers[layer], self._step(layer), dead_zone=self.dead_zone)
            for layer, states in inputs.layers.items()
        ]
        return mean_over_real(torch.stack(hinges).mean(dim=0), inputs.labels, "positions")

    def _step(self, layer: Layer) -> float:
        return self.measured[layer] if isinstance(self.step, MeasuredStep) else self.step
