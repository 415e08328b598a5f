"""What can fail when a model is saved fails before it is trained; a generation config never costs the weights."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_config, load_model, save_model
from quail_lightning.models.empty import empty_model
from quail_lightning.models.saving import try_saving, weight_bytes


@pytest.fixture
def tokenizer(checkpoint):
    return AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture
def empty(checkpoint):
    return empty_model(load_config(checkpoint), torch.bfloat16)


def test_a_model_without_weights_is_tried_and_nothing_stays(empty, tokenizer, tmp_path):
    out = tmp_path / "runs" / "model"
    try_saving(empty, tokenizer, out, weight_bytes(empty, torch.bfloat16))
    assert not list(out.parent.iterdir())


def test_a_loaded_model_is_as_before_the_trial(checkpoint, tokenizer, tmp_path):
    model = load_model(checkpoint, torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try_saving(model, tokenizer, tmp_path / "model", 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_too_little_room_is_seen(empty, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    with pytest.raises(InputError, match=r"needs 2\.0 GiB and the disk of .*model has 1\.0 GiB free"):
        try_saving(empty, tokenizer, tmp_path / "model", 2 * 2**30)
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file_is_refused(empty, tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"could not be saved to .*Not a directory|File exists"):
        try_saving(empty, tokenizer, tmp_path / "file" / "model", 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_refused(empty, tokenizer, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        try_saving(empty, tokenizer, tmp_path / "model", 0)


def test_a_config_and_a_tokenizer_that_cannot_be_saved_are_refused(empty, tokenizer, tmp_path):
    class Broken:
        def save_pretrained(self, folder):
            raise TypeError("not JSON serializable")

    with pytest.raises(InputError, match="not JSON serializable"):
        try_saving(empty, Broken(), tmp_path / "model", 0)
    empty.config.sizes = {1, 2}
    with pytest.raises(InputError, match="could not be saved"):
        try_saving(empty, tokenizer, tmp_path / "model", 0)
    assert not list(tmp_path.iterdir())


SAMPLING = {"temperature": 0.6}, {"top_p": 0.9}, {"temperature": 0.9, "top_p": 0.6, "top_k": 5}, {"typical_p": 0.5}


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
def test_sampling_without_do_sample_is_mended_in_what_is_saved(sampling, checkpoint, tokenizer, tmp_path, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "older")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1, "_from_model_config": True} | sampling))
    model = load_model(str(folder), torch.bfloat16)
    own = model.generation_config
    with pytest.raises(ValueError, match=r"(?i)generation ?config"):
        own.save_pretrained(tmp_path)
    try_saving(model, tokenizer, tmp_path / "new", 0)
    capsys.readouterr()
    save_model(model, tokenizer, tmp_path / "new", {})
    assert capsys.readouterr().out.count("\n") == 1
    assert model.generation_config is own
    found = GenerationConfig.from_pretrained(tmp_path / "new")
    assert found.do_sample
    assert {name: getattr(found, name) for name in sampling} == sampling
    load_model(str(tmp_path / "new"), torch.bfloat16)


def test_a_generation_config_that_cannot_be_mended_leaves_token_ids(checkpoint, tokenizer, tmp_path, capsys):
    model = load_model(checkpoint, torch.bfloat16)
    model.generation_config.num_return_sequences = 4  # of one beam, without sampling
    model.generation_config.temperature = -1.0
    save_model(model, tokenizer, tmp_path / "new", {})
    found = GenerationConfig.from_pretrained(tmp_path / "new")
    assert found.eos_token_id == model.config.eos_token_id
    load_model(str(tmp_path / "new"), torch.bfloat16)
