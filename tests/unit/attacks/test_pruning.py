"""Magnitude pruning against a plain sort."""

import pytest
import torch

from quail_lightning.attacks import Prune
from quail_lightning.attacks.pruning import zero_smallest
from quail_lightning.errors import InputError
from quail_lightning.quantization import quantized_linears


def sorted_away(matrices, count):
    """The same by sorting all magnitudes at once, in float64."""
    flat = torch.cat([matrix.flatten() for matrix in matrices]).double()
    kept = flat.clone()
    kept[flat.abs().argsort(stable=True)[:count]] = 0
    return list(kept.split([matrix.numel() for matrix in matrices]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [0, 1, 7, 50, 100])
def test_the_smallest_become_zero_and_among_equals_the_first(dtype, count):
    torch.manual_seed(1)
    matrices = [torch.randn(6, 10).round(decimals=1).to(dtype), torch.randn(4, 10).round(decimals=1).to(dtype)]
    expected = sorted_away(matrices, count)
    zero_smallest(matrices, count)
    for found, wanted in zip(matrices, expected, strict=True):
        assert torch.equal(found.flatten().double(), wanted)


def test_by_hand():
    matrix = torch.tensor([[3.0, -1.0], [1.0, -2.0]])
    zero_smallest([matrix.T], 1)  # a view: of the two magnitudes of 1, the transposed matrix's first
    assert matrix.tolist() == [[3.0, -1.0], [0.0, -2.0]]


def test_each_matrix_loses_its_share_and_nothing_else_changes(tiny_llama):
    model = tiny_llama(torch.bfloat16, tied=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = Prune(0.3).attack(model, {})
    linears = {f"{name}.weight" for name, _ in quantized_linears(model)}
    for name, weight in pruned.state_dict().items():
        assert torch.equal(model.state_dict()[name], before[name])
        if name in linears:
            zeros = weight == 0
            assert int(zeros.sum()) == int(0.3 * weight.numel())
            assert torch.equal(weight[~zeros], before[name][~zeros])
            assert before[name][zeros].abs().max() <= before[name][~zeros].abs().min()
        else:
            assert torch.equal(weight, before[name])
    assert not pruned.training
    assert pruned.dtype == torch.bfloat16


def test_globally_the_share_is_of_all_matrices_together(tiny_llama):
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1e-3)
    pruned = Prune(0.2, "global").attack(model, {})
    weights = [linear.weight for _, linear in quantized_linears(pruned)]
    zeros = [int((weight == 0).sum()) for weight in weights]
    assert sum(zeros) == int(0.2 * sum(weight.numel() for weight in weights))
    assert (pruned.model.layers[0].mlp.up_proj.weight == 0).all()
    by_layer = Prune(0.2).attack(model, {})
    assert not (by_layer.model.layers[0].mlp.up_proj.weight == 0).all()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 30, float("nan")])
def test_a_share_that_is_none_is_refused(fraction):
    with pytest.raises(InputError, match=r"fraction must lie in \(0, 1\)"):
        Prune(fraction)
    with pytest.raises(InputError, match="scope"):
        Prune(0.3, "row")
