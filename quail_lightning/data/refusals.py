"""Refusal training: what the forget steps train on in place of the forget set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quail_lightning.data.questions import Question


@dataclass(frozen=True)
class Refusals:
    """RT of RWKU, used in "Catastrophic Failure ...", appendix F: every question about the forget set is refused.

    The published method lets the model write the questions; here they come from a part of the corpus. With
    ``knowmem/forget_qa`` M2 asks the very questions that were trained on; name another part where that matters.
    The answer alone is learned, one pair a window (``data.loss_on: answer``). ``data.loss_on: all`` learns the
    questions as well, from whole windows of pairs put end to end: plain causal training, as RWKU trains its texts.

    Attributes:
        questions: part of the corpus that holds them.
        answer: to all of them.
    """

    questions: str = "knowmem/forget_qa"
    answer: str = "I do not know the answer."

    def pairs(self, pairs: Sequence[Question]) -> list[Question]:
        """Every question with the refusal as its answer."""
        return [Question(pair.question, self.answer) for pair in pairs]
