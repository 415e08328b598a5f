"""Representation misdirection for unlearning (RMU)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.token_likelihood import mean_over_real
from quail_lightning.objectives.term import Layer, Needs, TermInputs


class Misdirection:
    """RMU's forget term (Li et al. 2024): steers a layer's output on the forget set to one fixed random direction.

    ‖h − c·u‖², averaged over the positions of real tokens and over entries. u is a unit vector with entries drawn
    from [0, 1); it is the same in every step and every run with the same seed.

    Args:
        layer: ℓ, from 0; or a share of the depth (0.25 is layer 7 of 32, where the paper steers).
        coefficient: c, in units of the layer's output; larger scrambles more.
        seed: of u.
    """

    short = "rmu"

    def __init__(self, layer: Layer = 0.25, coefficient: float = 6.5, seed: int = 42) -> None:
        if not 0 < coefficient < math.inf:
            raise InputError("RMU's steering coefficient must be positive and finite", given=coefficient)
        self.layer, self.coefficient, self.seed = layer, coefficient, seed

    @property
    def needs(self) -> Needs:
        """The layer's output."""
        return Needs(layers=(self.layer,), mean_over="positions")

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean squared distance to c·u, in squared units of the layer's output."""
        states = inputs.layers[self.layer].float()
        goal = self.coefficient * self.direction(states.shape[-1]).to(states)
        return mean_over_real((states - goal).square().mean(dim=-1), inputs.labels, "positions")

    def direction(self, width: int) -> Tensor:
        """u: [width], float32, of norm 1."""
        drawn = torch.rand(width, generator=torch.Generator().manual_seed(self.seed))
        return drawn / drawn.norm()


class RepresentationRetention:
    """RMU's retain term: keeps a layer's output on the retain set as the target's. Its weight is α.

    Args:
        layer: ℓ, as in ``Misdirection``.
    """

    short = ""  # beside RMU's own forget term

    def __init__(self, layer: Layer = 0.25) -> None:
        self.layer = layer

    @property
    def needs(self) -> Needs:
        """The layer's output, of the model and of the target."""
        return Needs(layers=(self.layer,), frozen=frozenset({"layers"}), mean_over="positions")

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean squared distance to the target's output, in squared units of the layer's output."""
        difference = inputs.layers[self.layer].float() - inputs.frozen_layers[self.layer].float()
        return mean_over_real(difference.square().mean(dim=-1), inputs.labels, "positions")
