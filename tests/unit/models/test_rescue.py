"""A model that cannot be written to its folder is written elsewhere, and its folder stays as it was."""

import errno
import tempfile

import pytest
from transformers import PreTrainedModel

from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError, RunError
from quail_lightning.models.checkpoint import load_model, read_provenance
from quail_lightning.models.rescue import save_or_rescue


@pytest.fixture
def model(tiny_llama):
    return tiny_llama()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Two places, in order: the folder of temporary files and the user's own."""
    for name in ("temporary", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def fail_below(monkeypatch, number, *folders):
    write = PreTrainedModel.save_pretrained

    def save(self, folder, *args, **kwargs):
        write(self, folder, *args, **kwargs)
        if any(str(folder).startswith(str(failing)) for failing in folders):
            raise OSError(number, "", str(folder))

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_it_lies_in_another_place_complete(model, checkpoint, places, monkeypatch, number):
    fail_below(monkeypatch, number, places / "full")
    with pytest.raises(RunError, match=r"could not be written to .*/full/out .*It lies in .*complete"):
        save_or_rescue(model, load_tokenizer(checkpoint), places / "full/out", {"made_by": "tests"})
    (rescued,) = (places / "temporary").iterdir()
    assert read_provenance(rescued)["made_by"] == "tests"
    assert load_model(str(rescued), model.dtype).num_parameters() == model.num_parameters()
    assert not list((places / "full").iterdir())


def test_the_next_place_is_tried_and_at_last_the_reasons_are_told(model, checkpoint, places, monkeypatch):
    tokenizer = load_tokenizer(checkpoint)
    with monkeypatch.context() as patch:
        fail_below(patch, errno.ENOSPC, places / "full", places / "temporary")
        with pytest.raises(RunError, match=r"It lies in .*/here/quail-rescued-out"):
            save_or_rescue(model, tokenizer, places / "full/out", {})
    fail_below(monkeypatch, errno.ENOSPC, places)
    with pytest.raises(RunError, match=r"Nor could it be written elsewhere \(.*temporary.*here"):
        save_or_rescue(model, tokenizer, places / "full/out", {})


def test_other_errors_are_not_hidden(model, checkpoint, places, monkeypatch):
    (places / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        save_or_rescue(model, load_tokenizer(checkpoint), places / "out", {})
