"""Forgetting that ends where the text is as unlikely as to a model that never saw it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.protocol import UnlearningData
from quail_lightning.data.windows import token_windows
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.inference.shares import shared_among
from quail_lightning.run.processes import current_processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Stop = Literal["retrained"] | float

GENERAL_WINDOWS = 16
CLOSER = 0.01  # share of the way left that an epoch must go, or it is said that it leads nowhere


@dataclass
class Goals:
    """What the NLL of each forget window is to reach, and where it was when it was last trained on.

    Attributes:
        nll: [n] goals, nats a token, float64.
        seen: [n] each window's last NLL, before the step; −∞ where it was not trained on yet.
        way_left: mean distance to the goals after the epoch before; infinite in the first.
    """

    nll: Tensor
    seen: Tensor
    way_left: float = float("inf")

    @classmethod
    def of(cls, nll: Tensor) -> Goals:
        """Goals that no window has been compared with."""
        return cls(nll, torch.full_like(nll, -torch.inf))

    @property
    def reached(self) -> float:
        """Share of the windows that were at their goal when they were last trained on."""
        return float((self.seen >= self.nll).double().mean())

    def visit(self, windows: Tensor) -> Visit:
        """A step on these windows; see ``Visit``."""
        return Visit(self, windows, torch.zeros(len(windows), dtype=torch.float64, device=windows.device))

    def end_epoch(self) -> str:
        """Compare with the epoch before; a sentence where it led no nearer to goals that are not reached."""
        before, self.way_left = self.way_left, float((self.nll - self.seen).clamp(min=0).mean())
        if self.reached == 1 or self.way_left < (1 - CLOSER) * before or before == float("inf"):
            return ""
        return (
            f"model.stop ends nothing as things are: an epoch brought the forget windows no nearer to their goals "
            f"(NLL {float(self.seen.mean()):.3g} of {float(self.nll.mean()):.3g} nats a token, "
            f"{self.reached:.0%} of them there). Raise model.learning_rate, or take another forget term"
        )


@dataclass(frozen=True)
class Visit:
    """The forget windows of one step of all processes, and which of them still contribute.

    Attributes:
        goals: of all windows.
        windows: [batch] numbers of the step's.
        nll: [batch] their NLL, as far as this process has found it; 0 elsewhere. Summed over the processes it is
            every window's.
    """

    goals: Goals
    windows: Tensor
    nll: Tensor

    def open(self, windows: Tensor, nll: Tensor) -> Tensor:
        """Note the NLLs of one pass; which of its windows have not reached their goal.

        Args:
            windows: [n] numbers, each of the step.
            nll: [n] nats a token.
        """
        places = (self.windows[:, None] == windows).int().argmax(0)
        self.nll[places] = nll.detach().double()
        return self.was_open(windows)

    def was_open(self, windows: Tensor, nll: Tensor | None = None) -> Tensor:
        """Which windows had not reached their goal by the NLLs that ``open`` noted; ``nll`` is not read."""
        places = (self.windows[:, None] == windows).int().argmax(0)
        return self.nll[places] < self._goals(windows)

    def end(self) -> int:
        """Note all NLLs, summed over the processes; how many windows had not reached their goal."""
        self.goals.seen[self.windows.cpu()] = self.nll.cpu()
        return int((self.nll < self._goals(self.windows)).sum())

    def _goals(self, windows: Tensor) -> Tensor:
        return self.goals.nll[windows.cpu()].to(windows.device)


@dataclass(frozen=True)
class Measure:
    """From where the goals are taken.

    Attributes:
        said: in words, for the log.
        checkpoint: whose NLL it is.
        windows: [n, time] of which; one goal for all where they are not the forget set's own.
        is_own: whether they are.
    """

    said: str
    checkpoint: str
    windows: Tensor
    is_own: bool = False


def measured_on(target: str, retrained: str | None, data: UnlearningData) -> Measure:
    """What ``retrained`` means: that model's NLL of each forget window, or the nearest to it that can be had.

    Without a retrained model it is the target's mean NLL of holdout text, which is of the forget set's kind and
    was never trained on; without any, of the package's general text.
    """
    served = data.served
    if retrained is not None:
        return Measure(f"the NLL of {retrained} on each", retrained, served.trained.forget, is_own=True)
    if (texts := served.records.membership) is not None and texts.holdout:
        windows = token_windows(texts.holdout, served.tokenizer, data.max_len)
        return Measure("the target's NLL of the holdout text (no retrained model is named)", target, windows)
    request = CalibrationRequest(windows=GENERAL_WINDOWS, length=min(data.max_len, 512))
    windows = calibration_tokens(request, served.tokenizer)
    return Measure(
        "the target's NLL of general text, a rough measure (neither a retrained model nor holdout text is named)",
        target,
        windows,
    )


def goals_of(stop: Stop, measure: Measure | None, count: int, model: PreTrainedModel | None) -> Goals:
    """The goals of ``count`` forget windows; all processes must call.

    Args:
        stop: NLL in nats a token; or ``retrained``, to be measured.
        measure: on what; None for a number.
        count: of the forget set.
        model: the checkpoint of ``measure``.
    """
    if measure is None or model is None:
        return Goals.of(torch.full((count,), float(stop), dtype=torch.float64))
    with shared_among(current_processes(), model):
        found = window_nlls(model, measure.windows)
    return Goals.of(found if measure.is_own else found.mean().expand(count).clone())
