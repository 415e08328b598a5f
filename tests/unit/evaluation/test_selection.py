"""The number by which an epoch is chosen, by hand."""

import pytest

from quail_lightning.evaluation.selection import Likelihoods, shortfall

TARGET = {"bf16": Likelihoods(0.5, 1.0), "nf4": Likelihoods(0.6, 1.5)}


@pytest.mark.parametrize(
    ("bf16", "nf4", "expected"),
    [
        ((4.0, 1.0), (4.0, 1.5), 0.0),
        ((9.0, 1.0), (9.0, 1.5), 0.0),  # beyond the goal is no better
        ((4.0, 0.2), (4.0, 0.2), 0.0),  # nor is a retain set that became likelier
        ((3.5, 1.25), (4.0, 1.5), 0.75),
        ((3.5, 1.25), (2.0, 1.75), 2.25),  # quantization rolled the forgetting back: the worst precision counts
    ],
)
def test_shortfall_is_missing_forgetting_plus_lost_utility_at_the_worst_precision(bf16, nf4, expected):
    found = {"bf16": Likelihoods(*bf16), "nf4": Likelihoods(*nf4)}
    assert shortfall(found, TARGET, goal=4.0) == pytest.approx(expected)
