"""AdamW in three weight precisions: what becomes of an update smaller than the weight's last bit."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from quail_lightning.errors import InputError
from quail_lightning.unlearning.offloaded import OffloadedAdamW
from quail_lightning.unlearning.stored_weights import OnStoredWeights

WeightPrecision = Literal["float32", "bf16-stochastic", "bf16-nearest"]
"""``float32``: masters, nothing is lost. ``bf16-stochastic``: bfloat16 weights, every update rounded up or down
at random so that it arrives in the mean. ``bf16-nearest``: bfloat16 weights as in the papers' runs; an update
below half an ulp (2⁻⁹ to 2⁻⁸ of the weight) is lost, every time."""

AdamStates = Literal["full", "8bit", "offloaded"]
"""``full``: the moments in floating point. ``8bit``: block-wise in 8 bits (Dettmers et al. 2022). ``offloaded``:
in floating point, in main memory; the same steps, slower."""

_IMPORT_NOTES = ("torchao", "torch.utils._pytree")  # loggers


def weight_dtype(precision: WeightPrecision) -> torch.dtype:
    """The dtype in which the trained weights are held."""
    return torch.float32 if precision == "float32" else torch.bfloat16


def check_installed(weight_precision: WeightPrecision, states: AdamStates = "full") -> None:
    """Ask this before a model is loaded.

    Raises:
        InputError: the combination needs torchao, and it is not installed; or there is no such combination.
    """
    if (weight_precision, states) == ("bf16-stochastic", "offloaded"):
        raise InputError(
            "offloaded optimizer states are torch's own AdamW, which does not round stochastically",
            given=f"model.weight_precision: {weight_precision}, model.adam_states: {states}",
            allowed="model.adam_states: 8bit or full with it; or model.weight_precision: float32",
        )
    if _needs_torchao(weight_precision, states) and importlib.util.find_spec("torchao") is None:
        raise InputError(
            f"weight precision {weight_precision!r} with {states!r} optimizer states needs torchao, "
            "not installed here",
            remedy="Run: pip install torchao",
        )


def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    weight_precision: WeightPrecision,
    states: AdamStates = "full",
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) for weights already held in ``weight_dtype(weight_precision)``.

    Bytes a parameter, as weight + gradient + moments, before activations:

    ================  ===============  =================
    weight_precision  full             8bit
    ================  ===============  =================
    float32           4 + 4 + 8 = 16   4 + 4 + 2.03 ≈ 10
    bf16-stochastic   2 + 2 + 8 = 12   2 + 2 + 2.03 ≈ 6
    bf16-nearest      2 + 2 + 4 = 8    2 + 2 + 2.03 ≈ 6
    ================  ===============  =================

    ``bf16-nearest`` with full states is torch's AdamW as the papers ran it: its moments are bfloat16 too, and a
    second moment rounded to nearest at β₂ = 0.999 stands still, since a change of 0.001 of itself is below half
    an ulp. After 1,000 steps of a constant gradient its updates are 1.15 times too large, 900 steps after the
    gradient fell tenfold 0.67 of their size. torchao alone would make the first 1.63 times. So the moments of
    ``bf16-stochastic`` are float32; the 8-bit ones have a float32 scale a block that follows such changes.

    ``offloaded`` moments take none of the device's bytes but those of the largest weight (``OffloadedAdamW``).

    ``8bit`` packs tensors of at least 4,096 entries whose number is a multiple of 256; the moments of the others
    (norms) are float32. Within a block of 256 a second moment far below the largest is coarse, or 0.

    Stochastic rounding draws from torch's global generator of the weights' device: runs from one seed on one
    machine are bitwise equal. Replicated weights (DDP) stay equal only while all processes draw equally: seed
    them alike, without dropout. ``param_groups[…]["lr"]`` is a 0-dimensional tensor where torchao is at work;
    change it in place (``fill_``).

    Args:
        parameters: float32 ones among bfloat16 ones are updated without rounding, unless they hold what is stored
            as bfloat16 (``models.arithmetic.hold_for_computing``): see ``OnStoredWeights``.
        weight_precision: how an update enters a weight.
        states: how the moments are held.
        learning_rate: size of a step.
        weight_decay: decoupled; a step takes learning_rate · weight_decay of each weight.
        betas: decay of the first and the second moment.

    Raises:
        InputError: torchao is needed and not installed.
    """
    check_installed(weight_precision, states)
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay, "betas": betas}
    bases: tuple[Any, ...] = (torch.optim.AdamW,)
    if states == "offloaded":
        bases = (OffloadedAdamW,)
    elif _needs_torchao(weight_precision, states):
        with _quiet_import():
            from torchao.optim import AdamW8bit, _AdamW  # private: the one with float moments
        bases = (_OnFloat32Moments, _AdamW if states == "full" else AdamW8bit)
        options["bf16_stochastic_round"] = weight_precision == "bf16-stochastic"
    given = list(parameters)
    if any(hasattr(parameter, "stored_dtype") for parameter in given):
        bases = (OnStoredWeights, *bases)
    optimizer: torch.optim.Optimizer = type(bases[-1].__name__, bases, {})(given, **options)
    return optimizer


class _OnFloat32Moments(torch.optim.Optimizer):
    """What is changed in torchao's optimizers, set before them in the order of base classes."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """torchao compiles its step, which on CPUs wants a C++ compiler and 20 s: there it runs eagerly."""
        loss = None
        if closure is not None:  # here, since what it calls may well be compiled
            with torch.enable_grad():
                loss = closure()
        if all(p.device.type == "cpu" for group in self.param_groups for p in group["params"]):
            with torch.compiler.set_stance("force_eager"):
                super().step()
        else:
            super().step()
        return loss

    def _new_buffer(self, p: Tensor, signed: bool) -> Tensor:
        """Moments take their dtype from what they are made for."""
        # private: torchao makes its moments here, and takes no dtype
        buffer: Tensor = super()._new_buffer(p.float(), signed)  # type: ignore[misc]
        return buffer

    def state_dict(self) -> dict[str, Any]:
        """8-bit moments as their parts: torch does not load their class with Lightning's ``map_location``."""
        state_dict = super().state_dict()
        states = {
            number: {name: _in_parts(value) for name, value in state.items()}
            for number, state in state_dict["state"].items()
        }
        return state_dict | {"state": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch casts the moments to the weights' dtype on loading: put the saved ones in their place."""
        super().load_state_dict(state_dict)
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, parameter in zip(saved, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if name != "step":
                    self.state[parameter][name] = self._restored(parameter, name, value)

    def _restored(self, parameter: Tensor, name: str, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(device=parameter.device, dtype=torch.float32)
        buffer: Any = self._new_buffer(parameter, signed=name == "exp_avg")
        for part, content in value.items():
            getattr(buffer, part).copy_(content)
        return buffer


def _in_parts(value: Any) -> Any:
    """torchao's 8-bit tensor → its codes, one byte an entry, and scales, one a block; others as they are.

    Sharded ones (``DTensor``) stay whole: distributed checkpoints know them.
    """
    return {"codes": value.codes, "scale": value.scale} if hasattr(value, "codes") else value


def _needs_torchao(weight_precision: WeightPrecision, states: AdamStates) -> bool:
    return weight_precision == "bf16-stochastic" or states == "8bit"


@contextmanager
def _quiet_import() -> Iterator[None]:
    """No notes on torchao's kernels for other tasks that do not load here; levels are restored afterwards."""
    loggers = [logging.getLogger(name) for name in _IMPORT_NOTES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
