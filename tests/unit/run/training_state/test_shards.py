"""A folder of shards is read without running code, whoever wrote it."""

import json
import pickle
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed import checkpoint as dcp

from quail_lightning.configuration.allowed_code import code_allowed
from quail_lightning.errors import InputError
from quail_lightning.run.training_state.choosing import check_not_pickled
from quail_lightning.run.training_state.shards import (
    JsonWriter,
    read_shards,
    write_without_pickles,
)


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def state(scale: float):
    """As a model's and its optimizer's."""
    return {
        "state_dict": {"a.weight": scale * torch.arange(6.0).reshape(2, 3), "b": torch.tensor(scale).bfloat16()},
        "optimizer_0": {
            "state": {"a.weight": {"step": torch.tensor(scale), "exp_avg": torch.full((2, 3), scale)}},
            "param_groups": [{"lr": 0.1 * scale, "betas": (0.9, 0.95), "params": ["a.weight"], "foreach": None}],
        },
    }


@pytest.fixture
def folder(tmp_path):
    dcp.save(state(2.0), storage_writer=JsonWriter(tmp_path / "made"), no_dist=True)
    return tmp_path / "made"


def test_every_value_comes_back(folder) -> None:
    found, expected = state(0.0), state(2.0)
    read_shards(found, folder)
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value)
        assert found["state_dict"][name].dtype == value.dtype
    assert found["optimizer_0"]["param_groups"] == expected["optimizer_0"]["param_groups"]
    assert torch.equal(found["optimizer_0"]["state"]["a.weight"]["exp_avg"], torch.full((2, 3), 2.0))


def test_what_describes_the_shards_is_json(folder) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["__0_0.distcp", "shards.json"]
    described = json.loads((folder / "shards.json").read_text())
    assert described["values"]["state_dict.a.weight"] == {
        "dtype": "float32",
        "size": [2, 3],
        "chunks": [[[0, 0], [2, 3]]],
    }


def test_a_crafted_description_of_torch_s_own_kind_is_not_unpickled(folder, tmp_path) -> None:
    canary = tmp_path / "canary"
    (folder / ".metadata").write_bytes(pickle.dumps(Touch(canary)))
    (folder / "meta.pt").write_bytes(pickle.dumps(Touch(canary)))
    check_not_pickled(folder)
    read_shards(state(0.0), folder)
    (folder / "shards.json").unlink()
    with pytest.raises(InputError, match="--allow-code"):
        check_not_pickled(folder)
    strategy = ModelParallelStrategy()
    strategy.broadcast = lambda value: value
    write_without_pickles(strategy)
    with pytest.raises(InputError, match="--allow-code"):
        strategy.load_checkpoint(folder)
    assert not canary.exists()
    with code_allowed():
        check_not_pickled(folder)


@pytest.mark.parametrize("name", ["state_dict.b", "optimizer_0.param_groups.0.lr"])
def test_crafted_shards_are_not_unpickled(name, folder, tmp_path) -> None:
    canary = tmp_path / "canary"
    torch.save(Touch(canary), folder / "evil.distcp")
    described = json.loads((folder / "shards.json").read_text())
    for stored in described["stored"]:
        if stored[0] == name or name.startswith(f"{stored[0]}."):
            stored[3:] = ["evil.distcp", 0, (folder / "evil.distcp").stat().st_size]
            break
    else:
        raise AssertionError(described["stored"])
    (folder / "shards.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"cannot read the shards .*Weights only load failed"):
        read_shards(state(0.0), folder)
    assert not canary.exists()


def test_shards_lie_beside_their_description(folder) -> None:
    described = json.loads((folder / "shards.json").read_text())
    described["stored"][0][3] = "../other/__0_0.distcp"
    (folder / "shards.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="beside its description"):
        read_shards(state(0.0), folder)


def test_a_strategy_that_writes_one_file_is_refused() -> None:
    with pytest.raises(InputError, match="save_distributed_checkpoint"):
        write_without_pickles(SimpleNamespace(_save_distributed_checkpoint=False))
