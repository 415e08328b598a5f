"""A checkpoint comes back as it was, from files that cannot run code."""

import math

import pytest
import torch

from quail_lightning.run.training_state import SafetensorsIO, tensors_and_json


def test_every_kind_of_value_comes_back(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    state = {
        "tied": [shared, shared],
        "view": shared[:, 1],
        "scalar": torch.tensor(3.0),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "states": {0: {"step": 1}, 7: {"step": 2}},
        "betas": (0.9, 0.999),
        "plain": [None, True, 5, 0.1, "text", -math.inf],
        "nested": {"dict": {"tensor": "a name"}},
    }
    SafetensorsIO().save_checkpoint(state, tmp_path / "made")
    found = SafetensorsIO().load_checkpoint(tmp_path / "made")
    assert found.keys() == state.keys()
    for name in ("view", "scalar", "bytes", "half", "empty"):
        assert torch.equal(found[name], state[name])
        assert found[name].dtype == state[name].dtype
        assert found[name].shape == state[name].shape
    assert torch.equal(found["tied"][0], shared)
    assert found["tied"][0] is found["tied"][1]
    for name in ("states", "betas", "plain", "nested"):
        assert found[name] == state[name]


def test_not_a_number_comes_back(tmp_path):
    SafetensorsIO().save_checkpoint({"nan": math.nan}, tmp_path)
    assert math.isnan(SafetensorsIO().load_checkpoint(tmp_path)["nan"])


def test_large_states_are_split_over_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors_and_json, "BYTES_PER_FILE", 64)
    state = {f"{n}": torch.full((10,), float(n)) for n in range(5)}  # 40 bytes each: two a file
    SafetensorsIO().save_checkpoint(state, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    found = SafetensorsIO().load_checkpoint(tmp_path)
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_what_only_a_pickle_could_hold_is_refused_by_its_place(tmp_path):
    with pytest.raises(TypeError, match=r"checkpoint\['callbacks'\]\[0\] is a object"):
        SafetensorsIO().save_checkpoint({"callbacks": [object()]}, tmp_path)
