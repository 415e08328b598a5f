"""A run that trains an adapter, from the fit to a folder that every verb takes in place of a checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from plain_trainer import plain_trainer
from safetensors.torch import load_file

from quail_lightning.callbacks import BucketOverlap, ExportModel, KeepBest, QuantizedEvaluation
from quail_lightning.commands.evaluate import evaluate
from quail_lightning.commands.quantize import quantize
from quail_lightning.data import MuseDataModule
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.models.checkpoint import load_model, read_provenance, save_model, weights_digest
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.run.results import read_results
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adapter import Adapter
from quail_lightning.unlearning.task_vector import TaskVector


@pytest.fixture(autouse=True)
def _work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def bf16(tmp_path_factory, checkpoint):
    """A target that is stored in bfloat16."""
    folder = tmp_path_factory.mktemp("models") / "bf16"
    save_model(load_model(checkpoint, torch.bfloat16), load_tokenizer(checkpoint), folder, {"made_by": "tests"})
    return str(folder)


def fit(corpus_folder, target, *callbacks, name="run", **options):
    """One epoch of three steps; the module and the run's folder."""
    settings = {"adapter": Adapter(rank=4), "learning_rate": 1e-3} | options
    module = UnlearningModule(target, GradientAscent(), GradientDescent(), **settings)
    data = MuseDataModule(
        str(corpus_folder), tokenizer=target, max_len=24, batch_size=2, max_forget_windows=6, max_retain_windows=6
    )
    trainer = plain_trainer(
        max_epochs=1,
        precision="32-true",
        logger=TensorBoardLogger(".", name="", version=name),
        callbacks=list(callbacks),
    )
    trainer.fit(module, datamodule=data)
    return module, Path(name)


@pytest.mark.parametrize("base", ["bfloat16", "nf4"])
def test_merged_and_alone_are_the_same_model(base, corpus_folder, bf16):
    """What the adapter's folder is loaded as is bit for bit what the merged export is."""
    models = {}
    for merge in (True, False):
        adapter = Adapter(rank=4, base=base)
        module, run = fit(corpus_folder, bf16, ExportModel(merge=merge), name=f"merge-{merge}", adapter=adapter)
        models[merge] = load_model(str(run / "model"), torch.bfloat16)
        assert (run / "model/adapter_config.json").exists() != merge
    exported = module.export.whole_copy(module.model)
    start, moved = load_model(bf16, torch.bfloat16), 0
    for name, value in models[True].named_parameters():
        assert torch.equal(models[False].get_parameter(name), value), name
        assert torch.equal(exported.get_parameter(name), value), name
        moved += (value != start.get_parameter(name)).sum().item()
    assert moved > 100


def test_the_adapters_folder_is_pefts_own(corpus_folder, bf16):
    from peft import PeftModel

    module, run = fit(corpus_folder, bf16, ExportModel(merge=False), export_dtype="float32")
    files = {path.name for path in (run / "model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "provenance.json"} <= files
    assert not [name for name in files if name.endswith(".bin")]
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(load_model(bf16, torch.float32), str(run / "model")).eval()
        torch.testing.assert_close(
            loaded(input_ids=ids).logits,
            module.export.whole_copy(module.model)(input_ids=ids).logits,
            rtol=1e-4,
            atol=1e-4,
        )
    provenance = read_provenance(run / "model")
    assert provenance["base"] == bf16
    assert f"a LoRA adapter for `{bf16}`" in (run / "model/README.md").read_text()
    assert provenance["base_sha256"] == weights_digest(bf16)
    assert provenance["adapter"].startswith("Adapter(rank=4")
    assert json.loads((run / "model/adapter_config.json").read_text())["base_model_name_or_path"] == bf16


def test_what_is_evaluated_and_kept_is_the_merged_copy(corpus_folder, bf16):
    """The figures of the run are those of the exported folder, and so is the best epoch."""
    suite = EvaluationSuite(batch_size=4, verbmem_new_tokens=4, knowmem_new_tokens=2, max_prompts=2, max_texts=2)
    callbacks = (
        QuantizedEvaluation(["bf16", "nf4"], suite=suite, max_windows=4),
        KeepBest(True, ["bf16"], forget_nll=0.1, max_prompts=0),
        BucketOverlap(),
        ExportModel(),
    )
    _, run = fit(corpus_folder, bf16, *callbacks)
    kept = load_file(next(run.glob("best-epoch-*")) / "model.safetensors")
    exported = load_file(run / "model/model.safetensors")
    assert kept.keys() == exported.keys() == load_file(f"{bf16}/model.safetensors").keys()
    assert all(torch.equal(kept[name], value) for name, value in exported.items())
    found = {row.precision: row.metrics for row in read_results(run) if row.model == "unlearned"}
    expected = {}
    for row in evaluate(
        [run / "model"], "muse-news", precisions=["bf16", "nf4"], corpus=corpus_folder, data={"max_len": 24}
    ).rows:
        expected[row.precision] = row.metrics
    assert found.keys() == {"bf16", "nf4"}
    assert found["bf16"]["nll_forget"].value != pytest.approx(found["nf4"]["nll_forget"].value, rel=1e-4)
    assert found["bf16"]["kept_by_export"].value > 0
    assert expected["bf16"].keys() & found["bf16"].keys()


def test_an_adapter_is_evaluated_quantized_and_trained_on_like_a_checkpoint(corpus_folder, bf16):
    _, first = fit(corpus_folder, bf16, ExportModel(merge=False), name="first")
    adapter = first / "model"
    merged = quantize(adapter, "bf16", "merged")
    model = load_model(str(merged), torch.bfloat16)
    alone = load_model(str(adapter), torch.bfloat16)
    assert all(torch.equal(value, alone.get_parameter(name)) for name, value in model.named_parameters())
    options = {"corpus": corpus_folder, "limit": 2, "precisions": ["nf4"], "device": "cpu"}
    rows = evaluate([adapter, merged], "muse-news", **options).rows
    by_model = {}
    for row in rows:
        by_model.setdefault(row.model.split(" ")[0], {})[row.precision] = row.metrics
    for precision, figures in by_model[str(adapter)].items():
        # beyond these the second is compared with the first, which stands in a target's place
        assert {name: by_model[str(merged)][precision][name] for name in figures} == figures
    # a target and a start: the second adapter goes on from the merged first one
    _, second = fit(corpus_folder, str(adapter), ExportModel(), name="second")
    start = load_model(str(adapter), torch.bfloat16)
    found = load_model(str(second / "model"), torch.bfloat16)
    name = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(found.get_parameter(name), start.get_parameter(name))
    embeddings = "model.embed_tokens.weight"
    assert torch.equal(found.get_parameter(embeddings), start.get_parameter(embeddings))
    assert read_provenance(second / "model")["target_sha256"] == weights_digest(str(adapter))
    with pytest.raises(InputError, match="one adapter is not the base of another"):
        fit(corpus_folder, str(adapter), ExportModel(merge=False), name="third")


@pytest.mark.parametrize(
    ("options", "named"),
    [({"adapter": None}, "no adapter is trained"), ({"task_vector": TaskVector()}, "task vector")],
)
def test_an_adapter_alone_is_refused_where_it_does_not_say_what_was_trained(
    options, named, corpus_folder, bf16, monkeypatch
):
    monkeypatch.setattr(
        "quail_lightning.unlearning.sharding.load_model", lambda *_: pytest.fail("weights are loaded")
    )
    with pytest.raises(InputError, match=rf"export\.merge: false .*{named}"):
        fit(corpus_folder, bf16, ExportModel(merge=False), **options)
