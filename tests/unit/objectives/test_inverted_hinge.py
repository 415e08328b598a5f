"""IHL's mean over real tokens; its formula is tested beside the function."""

import math

import numpy as np

from quail_lightning.objectives import InvertedHinge


def test_the_inverted_hinge_is_averaged_over_real_tokens(logits):
    total = 0.0
    for b, t in logits.real:
        p = np.exp(logits.live[b, t]) / np.exp(logits.live[b, t]).sum()
        label = logits.labels[b, t]
        total += 1 + p[label] - max(p[k] for k in range(5) if k != label)
    assert math.isclose(InvertedHinge().loss(logits.seen(InvertedHinge())).item(), total / 5, rel_tol=1e-12)
