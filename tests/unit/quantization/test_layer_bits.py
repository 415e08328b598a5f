import pytest

from quail_lightning.errors import InputError
from quail_lightning.quantization.layer_bits import bits_of_layers

NAMES = ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj")


def test_without_patterns_every_layer_has_the_same_bits() -> None:
    assert bits_of_layers(NAMES, 4, None) == dict.fromkeys(NAMES, 4)


def test_the_first_pattern_that_matches_counts() -> None:
    chosen = bits_of_layers(NAMES, 4, {"model.layers.1.*": 3, "*.down_proj": 8})
    assert list(chosen.values()) == [4, 8, 3]


def test_a_pattern_matches_the_whole_name() -> None:
    with pytest.raises(InputError, match="'down_proj'"):
        bits_of_layers(NAMES, 4, {"down_proj": 8})


def test_every_pattern_without_a_layer_is_named() -> None:
    with pytest.raises(InputError, match=r"'\*\.donw_proj', '\*\.x'.*model\.layers\.0\.mlp\.up_proj"):
        bits_of_layers(NAMES, 4, {"*.donw_proj": 8, "*.down_proj": 8, "*.x": 2})
