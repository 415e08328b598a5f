"""Which decoder layer is meant; what happens where no reference gives the target's outputs."""

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.objectives import KLRetention, LogitHinge, NegativePreference, TermInputs
from quail_lightning.objectives.term import layer_number


def test_npo_without_a_reference_is_refused():
    labels = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(InputError, match=r"NPO compares with the frozen target.*model\.reference"):
        NegativePreference().loss(TermInputs(labels, (torch.zeros(2, 3),)))


@pytest.mark.parametrize(("term", "name"), [(KLRetention(), "KLR"), (LogitHinge(), "the hinge")])
def test_terms_on_the_targets_logits_are_refused_without_them(term, name):
    (function,) = term.needs.tokens
    with pytest.raises(InputError, match=f"{name} compares with the frozen target"):
        function(torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64), None)


@pytest.mark.parametrize(
    ("layer", "count", "expected"),
    [(0, 2, 0), (7, 32, 7), (31, 32, 31), (7.0, 32, 7), (0.25, 32, 7), (0.25, 2, 0), (0.5, 2, 0), (0.51, 2, 1)],
)
def test_a_number_counts_from_zero_and_a_share_names_the_last_layer_within_it(layer, count, expected):
    assert layer_number(layer, count) == expected


@pytest.mark.parametrize("count", [2, 12, 22, 32, 80])
def test_every_share_in_thousandths_is_rounded_as_whole_numbers_are(count):
    for thousandths in range(1, 1000):
        assert layer_number(thousandths / 1000, count) == -(-thousandths * count // 1000) - 1


@pytest.mark.parametrize("layer", [-1, 2, 1.5, 2.0, -0.25, 100])
def test_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(InputError, match="no such decoder layer; got"):
        layer_number(layer, 2)
