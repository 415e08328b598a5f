"""`quail fit`, `quail evaluate` and `quail finetune` where a GGUF file is named as a checkpoint."""

import json
import sys

import pytest
import yaml
from small_gguf import values, write_llama

from quail_lightning.cli import main
from quail_lightning.commands.evaluate import evaluate
from quail_lightning.commands.finetune import FinetuneRecipe, finetune
from quail_lightning.commands.quantize import quantize
from quail_lightning.conversion.located import located
from quail_lightning.data import OwnTextDataModule
from quail_lightning.finetuning import Hardware, Optimization
from quail_lightning.models.checkpoint import read_provenance
from quail_lightning.run.results import read_results

pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

FIT = [
    *("fit", "--config", "own.yaml", "--data.retain=other.txt", "--data.max_len=24"),
    *("--model.target=target.gguf", "--evaluation.retrained=retrained.gguf", "--evaluation.precisions=[bf16]"),
    "--evaluation.suite={batch_size: 4, verbmem_new_tokens: 8, knowmem_new_tokens: 4}",
    *("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--model.learning_rate=1e-3"),
    "--trainer.logger.init_args.version=run",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quail"])
    monkeypatch.chdir(tmp_path)
    for name in ("my", "other"):
        text = "\n\n".join(f"{name} hello {n}: {n} times hello at {n} past noon." for n in range(4))
        (tmp_path / f"{name}.txt").write_text(text)
    write_llama(tmp_path / "target.gguf", lambda name: "Q8_0", own={"context_length": 256})
    write_llama(tmp_path / "retrained.gguf", lambda name: "Q4_0", own={"context_length": 256}, weights=values(1))
    return tmp_path


def test_a_run_reads_the_conversions_and_its_config_keeps_the_names(here):
    main([*FIT, "--data.forget=my.txt"])
    run = here / "logs/own/run"
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["model"]["target"] == "target.gguf"
    assert kept["evaluation"]["retrained"] == "retrained.gguf"
    made = read_provenance(run / "model")
    assert made["target"].startswith("checkpoints/converted/target-")
    assert made["target_converted_from"]["file"] == "target.gguf"
    assert made["target_converted_from"]["types"]["Q8_0"]["tensors"] == 15
    assert "on Q8_0's (8 bits, blocks of 32)" in (run / "model/README.md").read_text()
    assert made["retrained"].startswith("checkpoints/converted/retrained-")
    assert {row.model for row in read_results(run)} == {"target", "retrained", "unlearned"}
    assert len(list((here / "checkpoints/converted").glob("*/model.safetensors"))) == 2
    found = evaluate(
        ["target.gguf", run / "model"], "own", data={"forget": "my.txt", "retain": "other.txt"}, limit=2
    )
    assert found.rows[0].model.startswith("checkpoints/converted/target-")
    assert set(found.verdicts) == {(str(run / "model"), "bf16")}  # its target is known by its folder


def test_a_file_that_quantize_wrote_is_evaluated_as_it_is_and_compared_with_its_origin(here):
    pytest.importorskip("xllamacpp")
    target, unlearned = located(["target.gguf", "retrained.gguf"])
    quantize(unlearned, "q4_0", "deployed.gguf", dtype="bfloat16")
    named = {"benchmark": "own", "data": {"forget": "my.txt", "retain": "other.txt", "max_len": 24}}
    found = evaluate(["target.gguf", "deployed.gguf"], precisions=["bf16", "q4_0"], **named)
    rows = {(row.model, row.precision): row.metrics for row in found.rows}
    (deployed,) = located(["deployed.gguf"])
    assert rows.keys() == {(target, "bf16"), (target, "q4_0"), (unlearned, "bf16"), (deployed, "q4_0")}
    assert set(found.verdicts) == {(deployed, "q4_0")}
    copied = evaluate(["target.gguf", unlearned], precisions=["bf16", "q4_0"], **named)
    copy = {(row.model, row.precision): row.metrics for row in copied.rows}[unlearned, "q4_0"]
    assert rows[deployed, "q4_0"] == copy, "the same weights, so the same figures and the same survival"
    assert found.verdicts[deployed, "q4_0"] == copied.verdicts[unlearned, "q4_0"]


def test_what_is_wrong_with_the_config_is_found_before_anything_is_converted(here, capsys):
    with pytest.raises(SystemExit):
        main([*FIT, "--data.forget=missing.txt"])
    assert "missing.txt" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*FIT, "--data.forget=my.txt", "--model.start=none.gguf"])
    assert "none.gguf cannot be read" in capsys.readouterr().err
    assert not (here / "checkpoints").exists()
    assert not (here / "logs").exists()


def test_a_target_is_made_from_a_gguf_base_and_found_again(here):
    recipe = FinetuneRecipe(base="target.gguf", optimization=Optimization(epochs=1, batch_size=4))
    data = OwnTextDataModule("my.txt", "other.txt", max_len=24)
    assert finetune(recipe, data, "forget+retain", here / "made", Hardware(accelerator="cpu"))
    assert not finetune(recipe, data, "forget+retain", here / "made", Hardware(accelerator="cpu"))
    noted = json.loads((here / "made/provenance.json").read_text())
    assert noted["recipe"]["base"] == "target.gguf"
    assert list(noted["base_sha256"]) == ["model.safetensors"]
