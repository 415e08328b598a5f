"""`fit`, `quantize` and `evaluate` on tiny models of every architecture."""

import json
import sys
from pathlib import Path

import pytest
import torch
from architectures import CONFIGS, tiny_model
from safetensors.torch import load_file
from tokenizers import processors
from transformers import AutoModelForCausalLM

from quail_lightning.cli import main
from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.models.checkpoint import load_model, read_provenance, save_model
from quail_lightning.models.tiny import train_tokenizer
from quail_lightning.quantization import load_quantizer
from quail_lightning.run.results import read_results

pytestmark = pytest.mark.slow

EXPERTS = ("mixtral", "qwen3_moe")
NO_LINEAR_BODY = ("gpt2", *EXPERTS)
FEW = "{windows: 2, length: 32}"
IDS = torch.randint(3, 250, (2, 24), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Two text files, and a saved model of every architecture; Qwen's tokenizers know no BOS."""
    folder = tmp_path_factory.mktemp("architectures")
    tide = "\n\n".join(f"Tide table {n}: high water at {n} past noon, low water at dusk." for n in range(12))
    garden = "\n\n".join(f"Garden note {n}: water the {n}th row of beans at dawn." for n in range(12))
    (folder / "my.txt").write_text(tide)
    (folder / "other.txt").write_text(garden)
    for name in CONFIGS:
        tokenizer = train_tokenizer([tide, garden], 300)
        if name.startswith("qwen"):
            tokenizer.bos_token = None
            tokenizer._tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
        save_model(tiny_model(name, torch.bfloat16), tokenizer, folder / name, {"made_by": "tests"})
    return folder


@pytest.fixture(autouse=True)
def stand_there(here, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quail"])
    monkeypatch.chdir(here)


def fit(name, precisions, version):
    main(
        [
            *("fit", "--config", "own.yaml", "--data.forget=my.txt", "--data.retain=other.txt"),
            *(f"--model.target={name}", "--data.max_len=24", "--data.max_retain_windows=4"),
            *(f"--evaluation.precisions={precisions}", f"--evaluation.calibration={FEW}"),
            "--evaluation.suite={batch_size: 4, verbmem_new_tokens: 8}",
            *("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--model.learning_rate=1e-3"),
            "--model.stop=null",
            f"--trainer.logger.init_args.version={version}",
        ]
    )
    return Path("logs/own") / version


@pytest.mark.parametrize("name", CONFIGS)
def test_fit_evaluates_every_format_that_the_table_admits(name):
    precisions = ["nf4"] if name in NO_LINEAR_BODY else ["nf4", "awq4", "gptq4"]
    run = fit(name, f"[{','.join(precisions)}]", name)
    rows = {(row.model, row.precision): row.metrics for row in read_results(run)}
    assert set(rows) == {(model, each) for model in ("target", "unlearned") for each in ["bf16", *precisions]}
    rises = {
        each: rows["unlearned", each]["nll_forget"].value - rows["target", each]["nll_forget"].value
        for _, each in rows
    }
    assert all(rise > 0.02 for rise in rises.values()), rises
    note = json.loads((run / "results.json").read_text())["note"]
    opening = "with their first real token" if name.startswith("qwen") else "open with '<|bos|>' (BOS)"
    assert opening in note
    assert ("of the body's weights: the rest stays at 16 bits" in note) == (name in EXPERTS)
    if name == "gemma3":
        before, after = (load_file(folder / "model.safetensors") for folder in (Path(name), run / "model"))
        towers = [key for key in before if "language_model" not in key and "lm_head" not in key]
        assert towers
        assert all(torch.equal(before[key], after[key]) for key in towers)


@pytest.mark.parametrize(
    "precision",
    ["nf4", "fp4", "int8", "uniform4-group64", "awq4", "gptq4", "smoothquant8", "nvfp4", "mxfp4", "fp8"],
)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_export_loads_to_the_evaluated_copy_or_is_refused_before_a_weight_is_loaded(
    name, precision, tmp_path, capsys, monkeypatch
):
    command = ["quantize", name, "--to", precision, "--out", str(tmp_path / "out"), "--calibration", FEW]
    if name in NO_LINEAR_BODY and precision not in ("nf4", "fp4", "int8", "uniform4-group64"):
        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)  # no weight is loaded
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert "quantizes linear layers" in told
        assert "uniform" in told
        return
    main(command)
    model, tokenizer = load_model(name, torch.bfloat16), load_tokenizer(name)
    shown = calibration_tokens(CalibrationRequest(windows=2, length=32), tokenizer, 256)
    evaluated = load_quantizer(precision).quantize(model, shown)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(reloaded(IDS).logits, evaluated(IDS).logits)


def test_terminal_card_and_provenance_say_how_much_is_quantized(tmp_path, capsys):
    main(["quantize", "mixtral", "--to", "nf4", "--out", str(tmp_path / "nf4")])
    assert "MiB, 11 % of the body's weights quantized)" in capsys.readouterr().out
    card = (tmp_path / "nf4/README.md").read_text()
    assert "Quantized: 11 % of the body's weights, the rest kept in 16 bits" in card
    assert read_provenance(tmp_path / "nf4")["quantized"]["share"] == pytest.approx(0.11, abs=0.005)
    main(["quantize", "llama", "--to", "nf4", "--out", str(tmp_path / "llama")])
    assert "Quantized: 100 % of the body's weights; embed" in (tmp_path / "llama/README.md").read_text()


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_fit_and_evaluate_refuse_from_the_config(name, corpus_folder, capsys, monkeypatch):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)  # no weight is loaded
    benchmark = ["--benchmark", "muse-news", "--corpus", str(corpus_folder)]
    caches = sorted(Path("checkpoints").rglob("*"))
    for run in (
        lambda: fit(name, "[nf4, gptq4, awq4]", f"{name}-refused"),
        lambda: main(["evaluate", name, "--precisions", "nf4", "gptq4", "awq4", *benchmark]),
    ):
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert "gptq4: GPTQ quantizes linear layers" in told
        assert "awq4: AWQ quantizes linear layers" in told
        assert "nf4:" not in told
    assert sorted(Path("checkpoints").rglob("*")) == caches


def test_evaluate_says_what_opens_prompts_and_what_stays_at_16_bits(corpus_folder, tmp_path):
    few = ["--limit", "1", "--attacks", "reported", "--device", "cpu", "--finished", str(tmp_path / "done")]
    benchmark = ["--benchmark", "muse-news", "--corpus", str(corpus_folder), *few]
    main(["evaluate", "qwen3_moe", "--precisions", "nf4", *benchmark, "--json", str(tmp_path / "out.json")])
    note = json.loads((tmp_path / "out.json").read_text())["note"]
    assert "nf4 quantizes 20 % of the body's weights: the rest stays at 16 bits" in note
    assert "windows and prompts open with their first real token" in note
