"""A learning rate for a model's size, where none is given."""

from __future__ import annotations

from typing import Literal

from lightning.pytorch.utilities import rank_zero_info

from quail_lightning.unlearning.fitting import MemoryOptions, sizes_of

LearningRate = float | Literal["auto"]

LLAMA_2_7B = 6_738_415_616  # weights of the papers' model
PAPERS = 1e-5  # their learning rate
SMALLER = 0.35  # by which power of its size a smaller model takes larger steps
ADAPTER = 10.0  # times larger for an adapter, whose few weights must make the whole change


def automatic_rate(weights: int, has_adapter: bool = False) -> float:
    """1e-5 · (6.7e9 / weights)^0.35, the papers' 1e-5 for a model of 7B; ten times that for an adapter.

    The power is fitted to what neither did nothing nor destroyed the model, at 1.9 million to 135 million weights
    (docs/results/first-run.md); it is near the inverse of the width, by which steps of AdamW are scaled from one
    model to another (Yang et al. 2022).

    Worked: 6.7e9 → 1e-5; 135e6 → 3.9e-5; 1.9e6 → 1.7e-4.

    Args:
        weights: of the model, all of them.
        has_adapter: whether an adapter is trained in their place.

    Returns:
        two significant digits.
    """
    rate = PAPERS * (LLAMA_2_7B / weights) ** SMALLER * (ADAPTER if has_adapter else 1.0)
    return float(f"{rate:.1e}")


def chosen_rate(given: LearningRate, options: MemoryOptions) -> float:
    """The learning rate that was given, or the one for the size of the target; says which that is.

    Args:
        given: a number, or ``auto``.
        options: of the module; they name the target.
    """
    if given != "auto":
        return given
    rate = automatic_rate(sizes_of(options).parameters, options.adapter is not None)
    rank_zero_info(f"model.learning_rate: {rate:.1e}, chosen for the model's size")
    return rate
