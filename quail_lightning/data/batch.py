"""The batches that travel from the data to the objectives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TokenBatch(NamedTuple):
    """Token windows of one set, without the padding that all of them have.

    Question–answer pairs with an alternate answer are [batch, 2, time]: the true answer, then the alternate. They
    are cut, shuffled and numbered as one window.

    Attributes:
        input_ids: [batch, time] token numbers.
        labels: [batch, time], the input itself (shifting is the loss's business), ``IGNORED`` (−100) where a token
            is read and not learned.
        window: [batch] number of the window within its set, the key of the reference's stored outputs.
    """

    input_ids: Tensor
    labels: Tensor
    window: Tensor

    @property
    def true_labels(self) -> Tensor:
        """[batch, time] the labels of the true answers."""
        return true_answers(self.labels)

    def rows(self) -> TokenBatch:
        """Each answer as a window of its own, numbered as in ``single_rows``; windows without alternates as is.

        Worked: pairs 3 and 0 → windows 6, 7, 0 and 1, of which 6 and 0 are the true answers.
        """
        if self.input_ids.ndim == 2:
            return self
        numbers = 2 * self.window[:, None] + torch.arange(2, device=self.window.device)
        return TokenBatch(single_rows(self.input_ids), single_rows(self.labels), numbers.flatten())


class ForgetRetainBatch(NamedTuple):
    """One step's windows; a schedule that visits the sets one after the other leaves one side out."""

    forget: TokenBatch | None
    retain: TokenBatch | None


def true_answers(windows: Tensor) -> Tensor:
    """[n, time] of [n, 2, time] true and alternate answers; windows without alternates as they are."""
    return windows if windows.ndim == 2 else windows[:, 0]


def single_rows(windows: Tensor) -> Tensor:
    """[2n, time] of [n, 2, time]: true answer 0, alternate 0, true answer 1, ...; others as they are."""
    return windows if windows.ndim == 2 else windows.flatten(0, 1)
