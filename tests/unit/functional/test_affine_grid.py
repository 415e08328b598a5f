"""The three uniform grids against float64 numpy written from the formulas, and by hand."""

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.functional.affine_grid import fit_grid, straight_through

KINDS = ["minmax-floor", "minmax-round", "symmetric"]


def published(block: np.ndarray, bits: int, kind: str, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Index and value of one group, as PROTOCOL.md section 4 writes them."""
    if kind == "symmetric":
        step = max(abs(low), abs(high)) / 2 ** (bits - 1)
        index = np.clip(np.round(block / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return index, index * step
    step = (high - low) / 2**bits
    if kind == "minmax-floor":
        index = np.clip(np.floor((block - low) / step), 0, 2**bits - 1)
        return index, (index + 0.5) * step + low
    index = np.clip(np.round((block - low) / step), 0, 2**bits - 1)
    return index, index * step + low


def random_weight(rows: int = 6, inputs: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    # Rows of different scale and centre, so that a wrong layout shows.
    scale = torch.logspace(-2, 0, rows, dtype=torch.float64).unsqueeze(1)
    return torch.randn(rows, inputs, generator=generator, dtype=torch.float64) * scale + scale / 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("granularity", ["global", "tensor", "channel", "group"])
def test_index_and_value_follow_the_formulas(kind: str, bits: int, granularity: str) -> None:
    weight = random_weight()
    rows, inputs = weight.shape
    size = {"channel": inputs, "group": 8}.get(granularity)
    bounds = (-3.5, 4.25) if granularity == "global" else None
    flat = weight.numpy().reshape(-1) if size is None else weight.numpy().reshape(-1, size)
    expected = [
        published(block, bits, kind, *(bounds or (block.min(), block.max()))) for block in np.atleast_2d(flat)
    ]
    grid = fit_grid(
        weight,
        bits=bits,
        kind=kind,
        granularity=granularity,
        group_size=8 if granularity == "group" else None,
        bounds=bounds,
    )
    index = grid.index(weight)
    np.testing.assert_array_equal(index.numpy(), np.stack([pair[0] for pair in expected]).reshape(rows, inputs))
    values = np.stack([pair[1] for pair in expected]).reshape(rows, inputs)
    np.testing.assert_allclose(grid.value(index).numpy(), values, rtol=0, atol=1e-14)
    np.testing.assert_allclose(grid.round(weight).numpy(), values, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("kind", "indices", "values"),
    [
        # Range −1 … 3 at 2 bits: step 1. 3 would be index 4 and is clamped; 0.5 lies at a tie of minmax-round.
        ("minmax-floor", [0, 1, 1, 3, 3], [-0.5, 0.5, 0.5, 2.5, 2.5]),
        ("minmax-round", [0, 1, 2, 3, 3], [-1.0, 0.0, 1.0, 2.0, 2.0]),
        # max|w| = 3 at 2 bits: step 1.5, levels −3, −1.5, 0, 1.5. 3 would be index 2 and is clamped.
        ("symmetric", [-1, 0, 0, 1, 1], [-1.5, 0.0, 0.0, 1.5, 1.5]),
    ],
)
def test_grids_worked_by_hand(kind: str, indices: list[int], values: list[float]) -> None:
    weight = torch.tensor([-1.0, 0.0, 0.5, 2.0, 3.0])
    grid = fit_grid(weight, bits=2, kind=kind)
    assert grid.index(weight).tolist() == indices
    assert grid.round(weight).tolist() == values


@pytest.mark.parametrize(("kind", "lowest", "highest"), [(KINDS[0], 0, 15), (KINDS[1], 0, 15), (KINDS[2], -8, 7)])
def test_another_model_beyond_the_range_is_clamped(kind: str, lowest: int, highest: int) -> None:
    grid = fit_grid(torch.tensor([-1.0, 1.0]), bits=4, kind=kind)
    assert grid.index(torch.tensor([-50.0, 50.0])).tolist() == [lowest, highest]
    assert (grid.lowest, grid.highest) == (lowest, highest)


def test_symmetric_reaches_its_lowest_level_only_below() -> None:
    weight = torch.tensor([-8.0, 8.0])
    assert fit_grid(weight, bits=4, kind="symmetric").round(weight).tolist() == [-8.0, 7.0]


@pytest.mark.parametrize("kind", KINDS)
def test_four_bits_give_at_most_sixteen_levels_a_group(kind: str) -> None:
    weight = random_weight(4, 256).float()
    rounded = fit_grid(weight, bits=4, kind=kind, granularity="channel").round(weight)
    assert max(len(row.unique()) for row in rounded) <= 16


def test_groups_of_a_row_have_their_own_step() -> None:
    weight = torch.tensor([[0.0, 4.0, 0.0, 40.0], [0.0, 400.0, 0.0, 4000.0]])
    grid = fit_grid(weight, bits=2, kind="minmax-floor", granularity="group", group_size=2)
    assert grid.step.tolist() == [[1.0, 10.0], [100.0, 1000.0]]


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize(("kind", "value"), [(KINDS[0], 0.37), (KINDS[1], 0.37), *((kind, 0.0) for kind in KINDS)])
def test_a_group_without_range_keeps_its_weights(kind: str, value: float, granularity: str) -> None:
    weight = torch.full((2, 4), value)
    size = 2 if granularity == "group" else None
    grid = fit_grid(weight, bits=4, kind=kind, granularity=granularity, group_size=size)
    assert torch.equal(grid.round(weight), weight)
    assert grid.index(weight).unique().tolist() == [0]


def test_a_weight_that_left_a_group_without_range_changes_bucket() -> None:
    grid = fit_grid(torch.zeros(3), bits=4, kind="symmetric")
    assert grid.index(torch.tensor([-1e-6, 0.0, 1e-6])).tolist() == [-8, 0, 7]


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_computed_in_float32_and_cast_back(kind: str) -> None:
    weight = random_weight().bfloat16()
    grid = fit_grid(weight, bits=8, kind=kind)
    single = weight.float()
    assert grid.step.dtype == torch.float32
    assert torch.equal(grid.index(weight), fit_grid(single, bits=8, kind=kind).index(single))
    assert torch.equal(grid.round(weight), fit_grid(single, bits=8, kind=kind).round(single).bfloat16())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_rounded_bfloat16_weight_keeps_its_symmetric_index(bits: int) -> None:
    weight = random_weight().bfloat16()
    grid = fit_grid(weight, bits=bits, kind="symmetric", granularity="channel")
    assert torch.equal(grid.index(grid.round(weight)), grid.index(weight))


def test_straight_through_rounds_forward_and_passes_the_gradient_unchanged() -> None:
    # 3.0 is clamped, and its gradient passes all the same.
    weight = torch.tensor([-1.0, 0.2, 0.5, 3.0], requires_grad=True)
    grid = fit_grid(weight.detach(), bits=2, kind="minmax-round")
    upstream = torch.tensor([1.0, -2.0, 0.25, 7.0])
    rounded = straight_through(weight, grid)
    (rounded * upstream).sum().backward()
    assert rounded.tolist() == [-1.0, 0.0, 1.0, 2.0]
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 0}, "1 … 16"),
        ({"granularity": "group", "group_size": 3}, "divide"),
        ({"granularity": "group"}, "group_size"),
        ({"group_size": 4}, "group_size"),
        ({"granularity": "global"}, "bounds"),
        ({"bounds": (0.0, 1.0)}, "bounds"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit_grid(torch.ones(4, 8), **{"bits": 4, "kind": "symmetric", **options})


def test_per_channel_needs_rows() -> None:
    with pytest.raises(InputError, match=r"\[outputs, inputs\]"):
        fit_grid(torch.ones(8), bits=4, kind="symmetric", granularity="channel")


def test_a_weight_of_another_shape_is_refused() -> None:
    grid = fit_grid(torch.ones(4, 8), bits=4, kind="symmetric", granularity="group", group_size=2)
    with pytest.raises(InputError, match="shape"):
        grid.index(torch.ones(4, 6))
