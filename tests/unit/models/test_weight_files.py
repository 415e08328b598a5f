"""Checkpoints read in pieces; damaged ones refused by name."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from quail_lightning.errors import InputError
from quail_lightning.models.weight_files import WeightFiles

TENSORS = {
    "half": torch.arange(60, dtype=torch.float16).reshape(6, 10),
    "brain": torch.randn(7, 5).bfloat16(),
    "single": torch.randn(11),
    "double": torch.randn(3, dtype=torch.float64),
}


@pytest.fixture
def sharded(tmp_path):
    """Two shards and their index."""
    names = list(TENSORS)
    shards = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for file, held in shards.items():
        save_file({name: TENSORS[name] for name in held}, tmp_path / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def test_every_stretch_of_every_tensor_is_read_as_stored(sharded):
    with WeightFiles(str(sharded)) as files:
        assert files.shapes == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
        for name, tensor in TENSORS.items():
            assert files.dtype(name) == tensor.dtype
            flat = tensor.flatten()
            for start, stop in ((0, len(flat)), (1, 3), (2, len(flat))):
                assert torch.equal(files.read(name, start, stop), flat[start:stop])


def test_a_buffer_is_filled_and_shared(sharded):
    buffer = bytearray(100)
    with WeightFiles(str(sharded)) as files:
        found = files.read("single", 4, 9, buffer)
        assert torch.equal(found, TENSORS["single"][4:9])
        buffer[:4] = struct.pack("<f", 7.0)
        assert found[0] == 7


def test_a_single_file_needs_no_index(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    with WeightFiles(str(tmp_path)) as files:
        assert torch.equal(
            files.read("brain", 0, 35), load_file(tmp_path / "model.safetensors")["brain"].flatten()
        )


def test_missing_shards_are_named(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of its 2 shards: model-00002-of-00002\.safetensors"):
        WeightFiles(str(sharded))


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="no checkpoint in Hugging Face format"):
        WeightFiles(str(tmp_path))


def test_what_is_neither_folder_nor_on_the_hub_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folder here and could not be fetched"):
        WeightFiles(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("keep", [3, 40, -1])
def test_a_truncated_file_is_refused_by_name(sharded, keep):
    file = sharded / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model-00001-of-00002\.safetensors is damaged"):
        WeightFiles(str(sharded))


def test_a_shape_that_does_not_fit_its_bytes_is_refused(tmp_path):
    header = json.dumps({"weight": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(InputError, match="weight has another size than its shape says"):
        WeightFiles(str(tmp_path))


def test_a_quantized_tensor_is_refused_by_name(tmp_path):
    save_file({"packed": torch.zeros(4, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    with WeightFiles(str(tmp_path)) as files, pytest.raises(InputError, match=r"packed .* stored as U8"):
        files.read("packed", 0, 4)
