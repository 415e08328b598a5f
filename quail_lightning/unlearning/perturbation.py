"""Steps whose gradients are taken at the weights as a format would round them, or at noisy ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.models.sharded import own_rows, share, whole
from quail_lightning.quantization.body_weights import matrix_names
from quail_lightning.quantization.rounded_weights import WeightLevels, restored, rounded_weights
from quail_lightning.reference import LiveReference, Reference
from quail_lightning.run.seeds import global_seed, named_key
from quail_lightning.unlearning.adapter import Adapter
from quail_lightning.unlearning.sharpness import Sam

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNROUNDED = "none"
SEEN_IN_TRAINING = (UNROUNDED, "fp4", "nf4", "uniform4-group64", "mxfp4")


@runtime_checkable
class Perturbation(Protocol):
    """What is done to the weights while an optimizer step's gradients are taken.

    ``∂L/∂w′`` at the perturbed weights w′ moves the weights w themselves, which are what they were, bit for bit,
    when the step is made (the straight-through estimator, Bengio et al. 2013).
    """

    @property
    def formats(self) -> tuple[str, ...]:
        """Those to which weights are rounded: the frozen target is rounded too, and forgetting ends in all."""

    def check(self, model: PreTrainedModel) -> None:
        """Refuse what cannot be done to an architecture.

        Args:
            model: may lie on the meta device.

        Raises:
            InputError: naming the format.
        """

    def applied(self, model: PreTrainedModel, step: int) -> AbstractContextManager[str | None]:
        """Inside, the weights are perturbed; gives the format that the target is to be rounded to, or None.

        Args:
            model: of a sharded one all processes must call.
            step: number of the optimizer step, which with the run's seed decides what is drawn.
        """

    def rounded(self, model: PreTrainedModel, name: str) -> AbstractContextManager[str]:
        """Inside, a model is rounded to one of ``formats``, whose name is given."""


class RandomFormats:
    """Each step draws a format, and its gradients are taken at the weights rounded to it.

    What is forgotten is forgotten in all of them, and what a retain term compares with is the equally rounded
    target (``CachedStates`` keeps its outputs once a format). In every round of as many steps as there are formats
    each comes once, in an order that follows from the run's seed. A step costs one rounding of the body's weights
    (10 to 20 ns a weight on one CPU core) and a copy of them; the reference one pass over its windows a format.

    Embeddings and head are not rounded, also where a GGUF file would.

    Args:
        formats: ``none`` (not rounded) and precisions whose levels follow from the weights alone; evaluate in
            others too: what is trained on proves nothing about the rest.

    Raises:
        InputError: no format, or one twice.
    """

    short = "formats"

    def __init__(self, formats: Sequence[str] = SEEN_IN_TRAINING) -> None:
        if not any(name != UNROUNDED for name in formats) or len(set(formats)) < len(formats):
            raise InputError(
                "formats of RandomFormats are those that steps are rounded to, each named once",
                given=", ".join(formats) or "none at all",
                allowed=f"{UNROUNDED}, and at least one precision such as fp4, nf4, uniform4-group64, mxfp4",
            )
        self.drawn_from = tuple(formats)
        self._levels: dict[str, WeightLevels] = {}

    @property
    def formats(self) -> tuple[str, ...]:
        """See ``Perturbation.formats``."""
        return tuple(name for name in self.drawn_from if name != UNROUNDED)

    def check(self, model: PreTrainedModel) -> None:
        """See ``Perturbation.check``; the levels do not depend on what the weights are."""
        self._levels = {name: WeightLevels.of(name, model) for name in self.formats}

    def drawn(self, step: int) -> str:
        """The format of a step."""
        count = len(self.drawn_from)
        turn, place = divmod(step, count)
        generator = torch.Generator().manual_seed(named_key(global_seed(), f"formats {turn}") >> 1)
        return self.drawn_from[int(torch.randperm(count, generator=generator)[place])]

    def applied(self, model: PreTrainedModel, step: int) -> AbstractContextManager[str | None]:
        """See ``Perturbation.applied``."""
        name = self.drawn(step)
        return nullcontext(None) if name == UNROUNDED else self.rounded(model, name)

    def rounded(self, model: PreTrainedModel, name: str) -> AbstractContextManager[str]:
        """See ``Perturbation.rounded``."""
        return rounded_weights(model, self._levels[name])


class WeightNoise:
    """Gaussian noise on the body's matrices while a step's gradients are taken: any format's error, roughly.

    Each step draws a share r, and each matrix W becomes W + r · ‖W‖ · ε / ‖ε‖ with standard normal ε. 4-bit
    formats move a matrix by 7 to 12 % of its norm. The target that a retain term compares with stays as it is.

    Args:
        low: smallest share r.
        high: largest one.

    Raises:
        InputError: no shares between 0 and 1, or the smaller above the larger.
    """

    short = "noise"
    formats: tuple[str, ...] = ()

    def __init__(self, low: float = 0.07, high: float = 0.12) -> None:
        if not 0 <= low <= high < 1 or not high:
            raise InputError(
                "low and high of WeightNoise are shares of a matrix's norm",
                given=f"low {low}, high {high}",
                allowed="0 <= low <= high < 1, high above 0",
            )
        self.low, self.high = low, high

    def check(self, model: PreTrainedModel) -> None:
        """See ``Perturbation.check``."""
        matrix_names(model)

    def applied(self, model: PreTrainedModel, step: int) -> AbstractContextManager[str | None]:
        """See ``Perturbation.applied``."""
        return self._noisy(model, step)

    @contextmanager
    def _noisy(self, model: PreTrainedModel, step: int) -> Iterator[str | None]:
        names = matrix_names(model)
        relative = self.low + (self.high - self.low) * float(torch.rand((), generator=_drawing(step, "share")))
        with restored(model, names):
            with torch.no_grad():
                for name in names:
                    parameter = model.get_parameter(name)
                    noise = _normal(parameter.shape, _drawing(step, name)).to(parameter.device)
                    size = whole(parameter.detach()).float().norm() * relative / noise.norm()
                    share(parameter.detach()).add_((noise[own_rows(parameter)] * size).to(parameter.dtype))
            yield None

    def rounded(self, model: PreTrainedModel, name: str) -> AbstractContextManager[str]:
        """See ``Perturbation.rounded``: there is no format."""
        raise AssertionError(name)


def check_perturbation(
    perturbation: Perturbation | None, sam: Sam | None, adapter: Adapter | None, reference: Reference | None
) -> None:
    """Refuse what a perturbation cannot be combined with.

    Raises:
        InputError: naming both.
    """
    if perturbation is None:
        return
    given = f"model.perturbation: {type(perturbation).__name__}"
    if sam is not None:
        raise InputError(
            "SAM and a perturbation both decide at which weights a step's gradient is taken",
            given=f"{given}, model.sam: {sam}",
            remedy="Set one of them to null",
        )
    if adapter is not None:
        raise InputError(
            "what is deployed is the base with the adapter merged into it, of which the perturbed base is no part",
            given=f"{given}, model.adapter: {adapter}",
            remedy="Train the weights themselves, or set model.perturbation to null",
        )
    if perturbation.formats and isinstance(reference, LiveReference):
        raise InputError(
            "LiveReference would hold the target once more for every format",
            given=given,
            remedy="Leave model.reference at CachedStates",
        )


def _drawing(step: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(named_key(global_seed(), f"noise {step} {name}") >> 1)


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """On the CPU, so that every device draws the same."""
    return torch.randn(math.prod(shape), generator=generator).view(shape)
