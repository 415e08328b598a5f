"""Loading, saving and what is refused."""

import json
import os
import shutil
import stat

import pytest
import torch
from transformers import AutoTokenizer

from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model, read_provenance, save_model, weights_digest


def test_a_saved_model_is_loaded_with_its_weights_in_the_dtype_asked_for(tmp_path, checkpoint):
    model, tokenizer = load_model(checkpoint, torch.float32), AutoTokenizer.from_pretrained(checkpoint)
    save_model(model, tokenizer, tmp_path / "saved", {"made_by": "test"})
    again = load_model(str(tmp_path / "saved"), torch.bfloat16)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
    assert again.model.rotary_emb.inv_freq.dtype == torch.float32
    for left, right in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(left.to(torch.bfloat16), right)
    assert not again.training
    provenance = read_provenance(tmp_path / "saved")
    assert provenance["made_by"] == "test"
    assert provenance["weights_sha256"] == weights_digest(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").glob("*.bin"))


def test_an_existing_folder_is_never_overwritten(tmp_path, checkpoint):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/mine").write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        save_model(load_model(checkpoint, torch.float32), None, tmp_path / "saved", {})
    assert (tmp_path / "saved/mine").read_text() == "precious"


def test_a_save_that_fails_leaves_nothing_under_the_final_name(tmp_path, checkpoint):
    class Broken:
        def save_pretrained(self, folder):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_model(load_model(checkpoint, torch.float32), Broken(), tmp_path / "saved", {})
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_saved_model_can_be_read_by_whom_the_umask_lets(tmp_path, checkpoint, umask):
    before = os.umask(umask)
    try:
        model, tokenizer = load_model(checkpoint, torch.float32), AutoTokenizer.from_pretrained(checkpoint)
        save_model(model, tokenizer, tmp_path / "saved", {"token": "s3cret", "target": "x"}, "a card")
    finally:
        os.umask(before)
    for path in (tmp_path / "saved", *(tmp_path / "saved").rglob("*")):
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert [path.name for path in tmp_path.iterdir()] == ["saved"], "no lock is left"
    assert read_provenance(tmp_path / "saved")["token"] == "***"


def test_pickled_weights_are_refused(tmp_path, checkpoint):
    model = load_model(checkpoint, torch.float32)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_model(str(tmp_path), torch.float32)


def test_a_missing_model_is_named():
    with pytest.raises(InputError, match="no model could be loaded from 'nowhere/at-all'"):
        load_model("nowhere/at-all", torch.float32)


def test_a_format_whose_package_is_missing_is_refused_with_the_extra_that_reads_it(
    tmp_path, checkpoint, monkeypatch
):
    shutil.copytree(checkpoint, tmp_path / "classic")
    config = json.loads((tmp_path / "classic/config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}
    (tmp_path / "classic/config.json").write_text(json.dumps(config))
    monkeypatch.setattr("transformers.quantizers.quantizer_awq.is_gptqmodel_available", lambda: False)
    with pytest.raises(InputError, match=r"needs a package .*gptqmodel.*install 'quail-lightning\[gptqmodel\]'"):
        load_model(str(tmp_path / "classic"), torch.bfloat16)
