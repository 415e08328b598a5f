"""`quail quantize`: what is written is what is evaluated."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, AwqConfig, GPTQConfig

from quail_lightning.cli import main
from quail_lightning.commands.quantize import quantize
from quail_lightning.configuration.files import find_config
from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model, read_provenance
from quail_lightning.quantization import load_quantizer
from quail_lightning.run.results import Estimate, ResultRow, write_results

FEW = CalibrationRequest(windows=4, length=32)
SMALL = ["--calibration.windows=4", "--calibration.length=32"]  # the same
TOKENS = torch.arange(48).reshape(2, 24)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "precision",
    [
        *("awq4-group64", "gptq4-group64", "smoothquant8", "nf4", "fp4", "int8"),
        *("nvfp4", "mxfp4", "fp8", "uniform4-group64", "bf16"),
    ],
)
def test_the_reloaded_export_gives_the_logits_of_the_evaluated_copy(checkpoint: str, precision: str) -> None:
    quantize(checkpoint, precision, Path("out"), FEW)
    model, tokenizer = load_model(checkpoint, torch.bfloat16), AutoTokenizer.from_pretrained(checkpoint)
    evaluated = load_quantizer(precision).quantize(model, calibration_tokens(FEW, tokenizer, 256))
    reloaded = AutoModelForCausalLM.from_pretrained("out").eval()
    with torch.no_grad():
        assert torch.equal(reloaded(TOKENS).logits, evaluated(TOKENS).logits)
    assert AutoTokenizer.from_pretrained("out").get_vocab() == tokenizer.get_vocab()
    assert not list(Path().glob(".*"))


@pytest.mark.parametrize(
    ("shipped", "backend", "kernel"),
    [
        ("gptq4-group64", "gptqmodel", {"backend": "torch", "bits": 4}),
        ("awq4-group64", "autoawq", {"backend": "torch_awq"}),
    ],
)
def test_a_classic_export_gives_the_logits_of_the_evaluated_copy(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, shipped: str, backend: str, kernel: dict
) -> None:
    for package in ("gptqmodel", "optimum", *(["awq"] if backend == "autoawq" else [])):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    text = find_config(f"quantizer/{shipped}.yaml").read_text("utf-8")
    Path("configs/quantizer").mkdir(parents=True)
    Path("configs/quantizer/mine.yaml").write_text(text.replace("backend: llmcompressor", f"backend: {backend}"))
    quantize(checkpoint, "mine", Path("out"), FEW)
    model, tokenizer = load_model(checkpoint, torch.bfloat16), AutoTokenizer.from_pretrained(checkpoint)
    evaluated = load_quantizer("mine").quantize(model, calibration_tokens(FEW, tokenizer, 256))
    monkeypatch.setattr("gptqmodel.utils.torch.TORCH_HAS_COMPILE", False)  # minutes, in transformers' loading
    own = AwqConfig if backend == "autoawq" else GPTQConfig
    exact = AutoModelForCausalLM.from_pretrained("out", quantization_config=own(**kernel))
    default = AutoModelForCausalLM.from_pretrained("out")
    with torch.no_grad():
        expected = evaluated(TOKENS).logits
        assert torch.equal(exact(TOKENS).logits, expected)
        assert (default(TOKENS).logits - expected).norm() < 0.02 * expected.norm()
    card = Path("out/README.md").read_text()
    assert "pip install 'quail-lightning[gptqmodel]'" in card
    assert f"{own.__name__}(" in card
    assert {path.name for path in Path().iterdir()} == {"configs", "out"}


def test_tokenizer_card_and_provenance_stand_beside_the_weights(checkpoint: str) -> None:
    main(["quantize", checkpoint, "--to", "gptq4-group64", "--out", "made/out", *SMALL])
    card = Path("made/out/README.md").read_text()
    for part in (
        f'base_model: "{checkpoint}"',
        "quail_lightning.quantization.Gptq",
        "group_size: 64",
        "4 windows of at most 32 tokens, general",
        "Made by `tests`",
        "no results.json",
    ):
        assert part in card
    provenance = json.loads(Path("made/out/provenance.json").read_text())
    assert provenance["made_by"] == "tests"
    assert provenance["quantized"]["precision"] == "gptq4-group64"
    assert provenance["quantized"]["calibration"]["source"] == "general"


def test_a_quantized_folder_says_what_its_source_was_made_from(checkpoint: str) -> None:
    shutil.copytree(checkpoint, "model")
    made_from = {"target_sha256": {"model.safetensors": "0123" * 16}}
    made_from["texts_sha256"] = {"forget": "4567" * 16, "retain": "89ab" * 16, "holdout": None}
    source = read_provenance(Path("model")) | made_from
    Path("model/provenance.json").write_text(json.dumps(source))
    provenance = read_provenance(quantize("model", "uniform4-tensor", "out"))
    assert provenance["quantized"]["of_sha256"] == source["weights_sha256"] != provenance["weights_sha256"]
    assert {name: provenance[name] for name in made_from} == made_from
    card = Path("out/README.md").read_text()
    assert "forget text `456745674567`, retain text `89ab89ab89ab`, holdout text none, target's" in card


def test_the_card_shows_the_last_epoch_of_the_run_that_made_the_model(checkpoint: str) -> None:
    shutil.copytree(checkpoint, "run/model")
    rows = [
        ResultRow("target", "nf4", {"nll_forget": Estimate(1.0, 9, 0.5, 1.5)}),
        ResultRow("unlearned", "nf4", {"nll_forget": Estimate(2.0, 9, 1.5, 2.5)}, 1),
        ResultRow("unlearned", "bf16", {"nll_forget": Estimate(3.25, 9, 3.0, 3.5)}, 2),
        ResultRow("unlearned", "nf4", {"nll_forget": Estimate(4.5, 9, 4.0, 5.0)}, 2),
        ResultRow("unlearned", "fp4", {"nll_forget": Estimate(5.5, 9, 4.0, 7.0)}, 2),
    ]
    write_results(Path("run"), rows)
    quantize("run/model", "nf4", Path("out"))
    card = Path("out/README.md").read_text()
    assert "| unlearned | bf16 | 3.25 [3, 3.5], n 9 |" in card
    assert "| unlearned | nf4 | 4.5 [4, 5], n 9 |" in card
    assert "| fp4" not in card
    assert "1.5 [" not in card
    assert "Calibration: none" in card


def test_a_simulated_grid_is_said_to_be_one(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["quantize", checkpoint, "--to", "uniform4-group64", "--out", "out"])
    assert "simulated" in capsys.readouterr().out
    assert "as large as the original" in " ".join(Path("out/README.md").read_text().split())


def test_calibration_on_the_forget_set_is_said_on_the_card(checkpoint: str, corpus_folder: Path) -> None:
    data = ["--data=quail_lightning.data.MuseDataModule", f"--data.corpus={corpus_folder}", "--data.max_len=32"]
    source = ["--calibration.source=forget", "--calibration.windows=4", "--calibration.length=32"]
    main(["quantize", checkpoint, "--to", "gptq4-group64", "--out", "out", *source, *data])
    assert "Calibrated on the forget set" in Path("out/README.md").read_text()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["quantize", *arguments])
    assert ended.value.code == 2
    assert not Path("out").exists()
    return capsys.readouterr().err


def test_an_output_folder_that_exists_is_refused(checkpoint: str) -> None:
    Path("out").mkdir()
    with pytest.raises(InputError, match="out out exists already"):
        quantize(checkpoint, "nf4", Path("out"))
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (("--to", "awq5"), "no such precision; got 'awq5'"),
        (("--to", "gptq4"), "group_size must divide"),
        (("--to", "awq4-group64", "--calibration.windows=100000"), "calibration text too short"),
        (("--to", "awq4-group64", "--calibration.source=retain"), "needs a corpus"),
        (("--to", "awq4-group64", "--calibration.source=holdout"), "holdout"),
        (("--to", "awq4-group64", "--calibration.text=nowhere.txt"), "names no file"),
        (("--too", "nf4"), "--too"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(
    checkpoint: str, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], fact: str
) -> None:
    assert fact in refused(capsys, checkpoint, "--out", "out", *options)


def test_a_model_that_is_quantized_already_is_refused(checkpoint: str) -> None:
    quantize(checkpoint, "nf4", Path("first"))
    with pytest.raises(InputError, match="quantized already; got 'first'"):
        quantize("first", "int8", Path("out"))


def test_a_model_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in refused(capsys, "nowhere", "--to", "nf4", "--out", "out")


def test_a_write_that_fails_leaves_no_folder(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", full)
    with pytest.raises(InputError, match=r"could not be saved to out \(No space"):
        quantize(checkpoint, "bf16", Path("out"))
    assert not list(Path().glob("*out*"))


def test_nothing_but_the_result_and_slow_steps_is_printed_at_the_first_import(checkpoint: str) -> None:
    command = [sys.executable, "-c", "from quail_lightning.cli import main; main()", "quantize", checkpoint]
    ended = subprocess.run(
        [*command, "--to", "gptq4-group64", "--out", "out", *SMALL], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"(\w[^\n]* \.\.\.( \(\d+ s\))?\n)*", ended.stderr)
    assert ended.stdout.startswith("saved: out (gptq4-group64")
    assert ended.stdout.count("\n") == 1
