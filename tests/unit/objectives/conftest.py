"""What a term is shown, made from plain logits."""

import numpy as np
import pytest
import torch

from quail_lightning.functional.token_likelihood import IGNORED
from quail_lightning.objectives import TermInputs


class Logits:
    """Logits of two windows of four tokens over five words in float64, of the model and of the target.

    The second window is shorter: its last label is padding.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self.live, self.target = rng.normal(size=(2, 2, 3, 5))
        self.labels = rng.integers(0, 5, size=(2, 3))
        self.labels[1, 2] = IGNORED
        self.real = [(b, t) for b in range(2) for t in range(3) if self.labels[b, t] != IGNORED]

    def ignore(self, window):
        """Leave no real token in a window."""
        self.labels[window] = IGNORED
        self.real = [(b, t) for b, t in self.real if b != window]

    def seen(self, term, live=None, **other):
        """What the term is shown; ``live`` instead of the model's logits, where they take a gradient."""
        live = torch.from_numpy(self.live) if live is None else live
        labels, target = torch.from_numpy(self.labels), torch.from_numpy(self.target)
        return TermInputs(labels, tuple(function(live, labels, target) for function in term.needs.tokens), **other)

    def log_likelihoods(self, logits):
        """log f(y_t | ·) written out: [2, 3], 0 where padded."""
        values = np.zeros((2, 3))
        for b, t in self.real:
            total = sum(np.exp(value) for value in logits[b, t])
            values[b, t] = logits[b, t, self.labels[b, t]] - np.log(total)
        return values


@pytest.fixture
def logits() -> Logits:
    return Logits()
