"""compressed-tensors' own description of each preset is known again, and nothing else is."""

import json

import pytest

from quail_lightning.quantization.stored_formats import float_format

pytest.importorskip("compressed_tensors")
PACKED = {"nvfp4": "nvfp4-pack-quantized", "mxfp4": "mxfp4-pack-quantized", "fp8": "float-quantized"}
PRESETS = {"nvfp4": "NVFP4A16", "mxfp4": "MXFP4A16", "fp8": "FP8_DYNAMIC"}


def config(name, **changes):
    from compressed_tensors.quantization import preset_name_to_scheme

    group = json.loads(preset_name_to_scheme(PRESETS.get(name, name), ["Linear"]).model_dump_json())
    return {"format": PACKED.get(name, "float-quantized"), "config_groups": {"group_0": group | changes}}


@pytest.mark.parametrize("name", PACKED)
def test_our_formats_are_known_by_their_config(name):
    assert float_format(config(name)) == name


@pytest.mark.parametrize("preset", ["NVFP4", "FP8", "W8A16", "FP8_BLOCK"])
def test_other_presets_have_no_name_here(preset):
    assert float_format(config(preset)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": None},
        {"weights": "x"},
        {"input_activations": {"strategy": "token"}},
        {"weights": {"strategy": ["x"]}},
    ],
)
def test_what_another_program_writes_is_another_format_and_no_fault(changes):
    assert float_format(config("fp8", **changes)) is None


@pytest.mark.parametrize("groups", [None, [], {}, {"FP8_DYNAMIC": ["Linear"]}, {"group_0": {}}])
def test_groups_may_be_written_in_any_way(groups):
    assert float_format({"format": "float-quantized", "config_groups": groups}) is None
