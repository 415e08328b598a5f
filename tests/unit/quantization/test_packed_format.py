import pytest
from torch import nn

from quail_lightning.errors import InputError
from quail_lightning.quantization import Awq, Gptq
from quail_lightning.quantization.packed_format import PackedFormat

LINEARS = [("a.q", nn.Linear(128, 8)), ("a.down", nn.Linear(192, 8))]


@pytest.mark.parametrize("quantizer", [Awq, Gptq])
@pytest.mark.parametrize("bits", [2, 3, 5, 16])
def test_bits_that_cannot_be_packed_are_refused(quantizer, bits: int) -> None:
    with pytest.raises(InputError, match=f"4 or 8 bits; got {bits}.*Uniform"):
        quantizer(bits=bits)
    with pytest.raises(InputError, match=f"4 or 8 bits; got {bits}"):
        quantizer(layer_bits={"*": bits})


def test_a_group_size_below_1_is_refused() -> None:
    with pytest.raises(InputError, match="group_size must be at least 1"):
        PackedFormat(4, 0, True)


def test_layers_whose_inputs_the_group_size_does_not_divide_are_named() -> None:
    with pytest.raises(InputError, match=r"not so for a\.down \(192\); got 128.*64, 32"):
        PackedFormat(4, 128, True).groups(LINEARS)


def test_each_layer_is_named_in_the_group_of_its_bits() -> None:
    groups = PackedFormat(4, 64, False, {"*.down": 8}).groups(LINEARS)
    described = {group["weights"]["num_bits"]: group["targets"] for group in groups.values()}
    assert described == {4: ["a.q"], 8: ["a.down"]}
    for group in groups.values():
        weights = group["weights"]
        assert (weights["symmetric"], weights["strategy"], weights["group_size"]) == (False, "group", 64)


def test_without_a_group_size_a_row_shares_its_scale() -> None:
    packed = PackedFormat(8, None, True)
    assert packed.granularity == "channel"
    (group,) = packed.groups(LINEARS).values()
    assert group["weights"] == {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
