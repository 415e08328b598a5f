"""A GGUF file that this program wrote is a deployed model, compared with the 16-bit one it came from."""

import json
from pathlib import Path

import pytest
import torch
from small_gguf import values, write_llama

from quail_lightning.commands.quantize import quantize
from quail_lightning.conversion.located import located
from quail_lightning.errors import InputError
from quail_lightning.evaluation.lineage import plan_of, stored_format
from quail_lightning.evaluation.precision import AS_STORED, named_precision
from quail_lightning.models.checkpoint import load_model, read_provenance, save_model
from quail_lightning.quantization import load_quantizer

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A target, an unlearned model, and its q4_0 as a file and as a folder."""
    from transformers import AutoTokenizer

    place = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for seed, name in enumerate(("target", "unlearned")):
            write_llama(place / f"{name}.gguf", lambda _: "BF16", weights=values(seed))
            (folder,) = located([f"{name}.gguf"])
            model, tokenizer = load_model(folder, torch.bfloat16), AutoTokenizer.from_pretrained(folder)
            save_model(model, tokenizer, place / name, {"target": "target"} if seed else {})
        quantize("unlearned", "q4_0", "deployed.gguf", dtype="bfloat16")
        quantize("unlearned", "q4_0", "deployed", dtype="bfloat16")
    return place


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)


@pytest.mark.parametrize("name", ["deployed.gguf", "deployed"])
def test_it_is_evaluated_as_it_is_stored_and_compared_with_its_origin(here, name):
    models = located(["target", name])
    asked = [named_precision("bf16"), named_precision("q4_0")]
    plan = plan_of(models, None, asked)
    deployed = models[1]
    (at,) = plan.precisions[deployed]
    assert (at.name, at.config, at.dtype) == ("q4_0", AS_STORED, torch.bfloat16)
    assert plan.origins == {deployed: "unlearned"}
    assert plan.targets == {deployed: "target"}
    assert [each.name for each in plan.precisions["unlearned"]] == ["bf16"]
    assert [each.name for each in plan.precisions["target"]] == ["bf16", "q4_0"]
    assert plan.notes == ()
    wide = plan_of(models, None, [named_precision("fp32"), *asked])
    assert wide.precisions[deployed][0].dtype == torch.float32


def test_its_weights_are_those_of_the_copy_that_is_evaluated(here):
    (deployed,) = located(["deployed.gguf"])
    loaded = load_model(deployed, torch.bfloat16).state_dict()
    copy = load_quantizer("q4_0").quantize(load_model("unlearned", torch.bfloat16)).state_dict()
    assert loaded.keys() == copy.keys()
    assert all(torch.equal(value, copy[name]) for name, value in loaded.items())


@pytest.mark.parametrize("name", ["deployed.gguf", "deployed"])
def test_it_is_not_quantized_again(here, made, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where nothing is converted yet
    with pytest.raises(InputError, match=r"quantized already; got .*, which is q4_0 of unlearned.*16-bit"):
        quantize(made / name, "q8_0", "again.gguf")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.chdir(made)
    with pytest.raises(InputError, match="quantized already"):
        quantize(located([name])[0], "q8_0", tmp_path / "again.gguf")


def test_the_conversion_says_what_it_is(here):
    (folder,) = located(["deployed.gguf"])
    assert "It holds q4_0 of unlearned" in (Path(folder) / "README.md").read_text()
    noted = read_provenance(Path(folder))["converted"]["provenance"]
    assert noted["target"] == "target"
    assert noted["quantized"]["of_sha256"] == read_provenance(Path("unlearned"))["weights_sha256"]


def test_another_programs_quantized_file_is_a_base(here, tmp_path):
    write_llama(tmp_path / "foreign.gguf", lambda _: "Q4_1")
    (folder,) = located([str(tmp_path / "foreign.gguf")])
    assert stored_format(folder) is None
    plan = plan_of(["target", folder], None, [named_precision("bf16"), named_precision("q4_0")])
    assert [each.config for each in plan.precisions[folder]] == ["bf16", "q4_0"]
    quantize(folder, "q4_0", tmp_path / "copy")
    of_copy = json.loads((tmp_path / "copy/provenance.json").read_text())
    assert "converted" in of_copy, "which file its model was of"
    assert stored_format(located([str(tmp_path / "copy")])[0]) == "q4_0"
