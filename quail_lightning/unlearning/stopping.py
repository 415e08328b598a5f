"""Forgetting that ends where the text is as unlikely as to a model that never saw it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from quail_lightning.data.batch import true_answers
from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.protocol import UnlearningData, data_of
from quail_lightning.data.windows import token_windows

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule

Stop = Literal["retrained"] | float

ENOUGH = 0.95  # of the way to a model without the text: what one window forgets takes others further
LEFT = 0.05  # share of the goals, on average over the windows, that may be left when training ends
MADE_UP = 0.2  # the share that may be left where the other windows are as far beyond their goals
RECENT = 0.25  # share of the windows whose steps inside an epoch tell that it may be time to look at all
CLOSER = 0.01  # share of the way left that an epoch must go, or it is said that it leads nowhere
GENERAL_WINDOWS = 16


@dataclass
class Goals:
    """What the NLL of each forget window is to reach, and where it was when it was last trained on.

    Attributes:
        nll: [n] goals, nats a token, float64.
        seen: [n] each window's last NLL: of its last step, or at the epoch's end; −∞ where there was none.
        left_before: ``left`` after the epoch before; infinite in the first.
        order: [n] of the steps since all were last looked at; −1 for windows of no step.
        has_ended: whether an epoch has ended with enough forgotten, and training with it.
    """

    nll: Tensor
    seen: Tensor
    order: Tensor
    left_before: float = float("inf")
    has_ended: bool = False

    @classmethod
    def of(cls, nll: Tensor) -> Goals:
        """Goals that no window has been compared with."""
        return cls(nll, torch.full_like(nll, -torch.inf), torch.full((len(nll),), -1))

    @property
    def reached(self) -> float:
        """Share of the windows that were at their goal when they were last looked at."""
        return float((self.seen >= self.nll).double().mean())

    @property
    def left(self) -> float:
        """Mean distance of the windows to their goals, as a share of the goals; 0 where all are reached."""
        return _left(self.nll, self.seen)

    @property
    def is_enough(self) -> bool:
        """Whether training may end: what a last window still needs drives all others beyond their goals."""
        return _is_enough(self.nll, self.seen)

    @property
    def may_be_enough(self) -> bool:
        """Whether it is for the windows of the last steps, a quarter of all, as they were before those."""
        order, last = self.order.topk(math.ceil(RECENT * len(self.nll)))
        return bool(order[-1] >= 0) and _is_enough(self.nll[last], self.seen[last])

    @property
    def is_over(self) -> bool:
        """Whether it was enough when all were last looked at: the epoch goes on with the retain set alone."""
        return bool((self.order < 0).all()) and self.is_enough

    def look(self, nlls: Tensor) -> None:
        """Note every window's NLL now: [n] nats a token."""
        self.seen = nlls
        self.order.fill_(-1)

    def visit(self, windows: Tensor) -> Visit:
        """A step on these windows; see ``Visit``."""
        return Visit(self, windows, torch.zeros(len(windows), dtype=torch.float64, device=windows.device))

    def end_epoch(self) -> str:
        """Note whether it was the last. A sentence where it led no nearer to goals that are not reached."""
        before, self.left_before, self.has_ended = self.left_before, self.left, self.is_enough
        if self.has_ended or self.left < (1 - CLOSER) * before or before == float("inf"):
            return ""
        return (
            f"model.stop ends nothing so far: an epoch brought the forget windows hardly nearer to their goals "
            f"(NLL {float(self.seen.mean()):.3g} of {float(self.nll.mean()):.3g} nats a token, "
            f"{self.reached:.0%} of them there). Raise model.learning_rate, or take another forget term"
        )


def _left(goals: Tensor, nll: Tensor) -> float:
    return float((goals - nll).clamp(min=0).mean() / goals.mean())


def _is_enough(goals: Tensor, nll: Tensor) -> bool:
    """Worked: goals 4 and 4 are enough at NLLs 3.7 and 4 (4 % left) and 2.5 and 6 (19 %), not at 2.5 and 5."""
    left = _left(goals, nll)
    return left <= LEFT or (left <= MADE_UP and bool(nll.mean() >= goals.mean()))


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
        self.nll[self._places(windows)] = nll.detach().double()
        return self.was_open(windows)

    def was_open(self, windows: Tensor, nll: Tensor | None = None) -> Tensor:
        """Which windows had not reached their goal by the NLLs that ``open`` noted; ``nll`` is not read."""
        return self.nll[self._places(windows)] < self._goals(windows)

    def end(self) -> float:
        """Note all NLLs, summed over the processes; the share of windows that had not reached their goal."""
        windows = self.windows.cpu()
        self.goals.seen[windows] = self.nll.cpu()
        self.goals.order[windows] = self.goals.order.max() + 1 + torch.arange(len(windows))
        return float((self.nll < self._goals(self.windows)).double().mean())

    def _places(self, windows: Tensor) -> Tensor:
        return (self.windows[:, None] == windows).int().argmax(0)

    def _goals(self, windows: Tensor) -> Tensor:
        return self.goals.nll[windows.cpu()].to(windows.device)


def look_where_due(module: UnlearningModule, ends_epoch: bool) -> None:
    """Look at every window where it may be enough, and when an epoch ends; all processes must call.

    Args:
        module: that is trained towards its goals.
        ends_epoch: whether no step of the epoch is left.
    """
    goals = module.goals
    assert goals is not None
    if ends_epoch or goals.may_be_enough:
        goals.look(lowest_nlls(module))
    if ends_epoch and (said := goals.end_epoch()):
        rank_zero_info(said)
    module.trainer.should_stop |= goals.has_ended


def lowest_nlls(module: UnlearningModule) -> Tensor:
    """[n] NLL of each forget window, nats a token: the lowest of all formats where steps are rounded to some."""
    assert module.model is not None
    windows = true_answers(data_of(module.trainer).served.trained.forget)
    found = [module.arithmetic.nlls(module.model, windows)]
    if module.perturbation is not None:
        for name in module.perturbation.formats:
            with module.perturbation.rounded(module.model, name):
                found.append(module.arithmetic.nlls(module.model, windows))
    return torch.stack(found).amin(dim=0)


@dataclass(frozen=True)
class Yardstick:
    """Whose NLL says that a text is unknown.

    Attributes:
        said: in words, for the log.
        checkpoint: whose it is.
        windows: [n, time] of which; one NLL for all where they are not the forget set's own.
        is_own: whether they are.
    """

    said: str
    checkpoint: str
    windows: Tensor
    is_own: bool = False


def yardstick(target: str, retrained: str | None, data: UnlearningData) -> Yardstick:
    """The retrained model on each forget window, or what is nearest to it.

    Without a retrained model it is the target's mean NLL of holdout text, which is of the forget set's kind and
    was never trained on; without any, of the package's general text.
    """
    served = data.served
    if retrained is not None:
        return Yardstick(f"the NLL that {retrained} has", retrained, served.trained.forget, is_own=True)
    if (texts := served.records.membership) is not None and texts.holdout:
        windows = token_windows(texts.holdout, served.tokenizer, data.max_len)
        return Yardstick("the target's NLL of the holdout text, as no retrained model is named", target, windows)
    request = CalibrationRequest(windows=GENERAL_WINDOWS, length=min(data.max_len, 512))
    windows = calibration_tokens(request, served.tokenizer)
    said = "the target's NLL of general text, roughly, as neither a retrained model nor holdout text is named"
    return Yardstick(said, target, windows)


def goals_between(target: Tensor, unknown: Tensor) -> Goals:
    """``ENOUGH`` of the way from the target's NLL of each forget window to that of an unknown text.

    Worked: target 0.5, retrained model 3.0 → 2.875.

    Args:
        target: [n] nats a token.
        unknown: [n] or [1], likewise.
    """
    return Goals.of(target + ENOUGH * (unknown - target))
