"""Move a few weights across the boundaries of formats, until these bring nothing back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from quail_lightning.hardening.moves import Slopes, exchange, joined_moves, moves_across
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.inference.nll_gradient import nll_gradient
from quail_lightning.quantization.rounded_weights import WeightLevels, rounded_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENOUGH = 0.01  # of the rise: what may come back
ROUNDS = 3  # of slopes and moves over all formats: moves for one may undo a little of another's
TRIES = 4  # a round; each with half the gain of the one before
MOST_LOSS = 0.05  # nats a token that the retain NLL of a quantized model may rise by: 5 % of its probability
PORTION = 2**28  # weights whose slopes are held at once: 12 bytes each

Show = Callable[[str, int, int], None]
"""What is done, how much of it, and of how much."""


class Windows(NamedTuple):
    """Of both sets, [n, time] token numbers each."""

    forget: Tensor
    retain: Tensor


class Nlls(NamedTuple):
    """Of each set's windows, [n] nats a token, float64."""

    forget: Tensor
    retain: Tensor


class Goal(NamedTuple):
    """Where a format's forgetting is to end, window by window.

    Attributes:
        nll: [n] nats a token of the forget windows: the model's at 16 bits, or that of the equally quantized model
            which never saw the text, where it is lower.
        rise: [n] above the target's NLL at 16 bits.
    """

    nll: Tensor
    rise: Tensor

    def gap(self, found: Nlls) -> Tensor:
        """[n] what windows fall short of it; 0 where they do not."""
        return (self.nll - found.forget).clamp(min=0)

    def is_reached(self, found: Nlls) -> bool:
        """Whether no more than ``ENOUGH`` of the rise is gone."""
        return float(self.gap(found).mean()) <= ENOUGH * float(self.rise.mean())


class Hardened(NamedTuple):
    """What became of a format.

    Attributes:
        before, after: NLLs of the quantized model.
        moved: weights that were moved for it.
    """

    before: Nlls
    after: Nlls
    moved: int


def nlls_of(model: PreTrainedModel, levels: WeightLevels | None, windows: Windows, show: Show) -> Nlls:
    """A model's NLLs, rounded to a format or as it is.

    Args:
        model: unchanged afterwards.
        levels: of the format, or None.
        windows: of both sets.
        show: told of the progress.
    """
    with _at(model, levels):
        forget = window_nlls(model, windows.forget, None, partial(show, f"forget NLL at {_said(levels)}"))
        return Nlls(
            forget, window_nlls(model, windows.retain, None, partial(show, f"retain NLL at {_said(levels)}"))
        )


def forget_nlls(model: PreTrainedModel, levels: WeightLevels | None, forget: Tensor, show: Show) -> Tensor:
    """[n] of the forget windows alone; see ``nlls_of``."""
    with _at(model, levels):
        return window_nlls(model, forget, None, partial(show, f"forget NLL at {_said(levels)}"))


def harden_model(
    model: PreTrainedModel,
    formats: Mapping[str, WeightLevels],
    windows: Windows,
    goals: Mapping[str, Goal],
    dtype: torch.dtype,
    show: Show,
) -> dict[str, Hardened]:
    """Move weights of a model, in place, until formats reach their goals.

    In the quantized model each weight that is moved goes a whole bucket far, at 16 bits at most ``REACH`` and
    ``MARGIN`` of one. A format is done with where its goal is reached, where the retain NLL of the quantized model
    would rise by more than ``MOST_LOSS``, or after ``ROUNDS``.

    Args:
        model: whole, on any device, in float32 or in ``dtype``, in which its weights are exact.
        formats: by name.
        windows: of both sets; none may be empty.
        goals: of each format.
        dtype: that the weights are stored in.
        show: told of the progress.

    Returns:
        name of the format → what became of it, with the NLLs of the model as all formats left it.
    """
    before = {name: nlls_of(model, levels, windows, show) for name, levels in formats.items()}
    found, moved = dict(before), dict.fromkeys(formats, 0)
    current, ended = set(formats), set[str]()  # whose NLLs are of the model as it is; whose moves are used up
    for _ in range(ROUNDS):
        for name, levels in formats.items():
            if name in ended:
                continue
            if name not in current:
                found[name] = nlls_of(model, levels, windows, show)
                current.add(name)
            if goals[name].is_reached(found[name]):
                continue
            made, found[name] = _round(model, levels, windows, goals[name], found[name], before[name], dtype, show)
            moved[name] += made
            if made:
                current = {name}
            else:
                ended.add(name)
    for name in formats.keys() - current:
        found[name] = nlls_of(model, formats[name], windows, show)
    return {name: Hardened(before[name], found[name], moved[name]) for name in formats}


def _round(
    model: PreTrainedModel,
    levels: WeightLevels,
    windows: Windows,
    goal: Goal,
    found: Nlls,
    before: Nlls,
    dtype: torch.dtype,
    show: Show,
) -> tuple[int, Nlls]:
    """Make the moves that gain what is wanting, or half of it, ...; how many were made, and the NLLs then."""
    short = goal.gap(found) > 0
    wanted = float(goal.gap(found)[short].mean())
    slopes = slopes_at(model, levels, windows._replace(forget=windows.forget[short]), show)
    moves = joined_moves(map(partial(moves_across, model, levels, dtype), slopes))
    wanted = min(wanted, float(moves.gain.sum()))
    for _ in range(TRIES):
        chosen = moves.cheapest(wanted)
        if not chosen.size:
            break
        undoing = exchange(model, levels, chosen)
        reached = nlls_of(model, levels, windows, show)
        spared = reached.retain.mean() <= max(before.retain.mean() + MOST_LOSS, found.retain.mean())
        if spared and goal.gap(reached).mean() < goal.gap(found).mean():
            return chosen.size, reached
        exchange(model, levels, undoing)
        wanted /= 2
    return 0, found


def slopes_at(model: PreTrainedModel, levels: WeightLevels, windows: Windows, show: Show) -> Iterator[Slopes]:
    """The slopes at a model's quantized weights, of as many weights at a time as ``PORTION`` allows.

    Args:
        model: unchanged afterwards.
        levels: of the format.
        windows: of both sets.
        show: told of the progress.
    """

    def shape(name: str) -> torch.Size:
        return model.get_parameter(name).shape

    for names in _portions(model, levels.buckets):
        forget, retain, curvature = ({name: torch.zeros(shape(name)) for name in names} for _ in range(3))
        with rounded_weights(model, levels):
            for side, rows, means in (("forget", windows.forget, forget), ("retain", windows.retain, retain)):
                for done, window in enumerate(rows, 1):  # added up in float32, whatever the model computes with
                    for name, gradient in nll_gradient(model, window.unsqueeze(0), names).weights.items():
                        means[name].add_(gradient, alpha=1 / len(rows))
                        if side == "retain":
                            curvature[name].add_(gradient.float().square(), alpha=1 / len(rows))
                    show(f"{side} slopes at {levels.name}", done, len(rows))
        yield Slopes(forget, retain, curvature)
        del forget, retain, curvature  # before those of the next weights are made


def _portions(model: PreTrainedModel, names: Collection[str]) -> list[list[str]]:
    """Consecutive names whose weights are no more than ``PORTION``, or one."""
    portions: list[list[str]] = []
    size = PORTION
    for name in names:
        count = model.get_parameter(name).numel()
        if size + count > PORTION:
            portions.append([])
            size = 0
        portions[-1].append(name)
        size += count
    return portions


def _at(model: PreTrainedModel, levels: WeightLevels | None) -> AbstractContextManager[object]:
    return nullcontext() if levels is None else rounded_weights(model, levels)


def _said(levels: WeightLevels | None) -> str:
    return "16 bits" if levels is None else levels.name
