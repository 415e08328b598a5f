"""`quail analyze` from the command line to its files."""

import json
import re
import xml.etree.ElementTree

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from rich.console import Console
from safetensors.torch import load_file, save_file

from quail_lightning import analyze
from quail_lightning.analysis.tables import print_comparison
from quail_lightning.cli import main
from quail_lightning.commands.analyze import name_of
from quail_lightning.comparison import Questions, Role, compare, compared_parameters, roles_from_config
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.evaluation.benchmarks import load_benchmark
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.checkpoint import load_config, load_model, save_model
from quail_lightning.models.tiny import tiny_llama
from quail_lightning.models.weight_files import WeightFiles
from quail_lightning.quantization import BitsAndBytes


@pytest.fixture(scope="module")
def unlearned(tmp_path_factory, checkpoint):
    """The target of the shared fixture, moved a little."""
    folder = tmp_path_factory.mktemp("analyzed") / "unlearned"
    model = load_model(checkpoint, torch.float32)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 1e-3)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def out(tmp_path_factory, checkpoint, unlearned):
    out = tmp_path_factory.mktemp("out") / "analysis"
    command = ["analyze", "--reference", checkpoint, "--model", unlearned, "--out", str(out)]
    main([*command, "--bits", "16", "8", "4", "--granularities", "global", "tensor", "--formats", "nf4"])
    return out


def test_numbers_are_those_of_the_comparison(out, checkpoint, unlearned):
    content = json.loads((out / "analysis.json").read_text())
    assert (content["reference"], content["model"]) == (checkpoint, unlearned)
    with WeightFiles(checkpoint) as before, WeightFiles(unlearned) as after:
        roles: dict[str, Role] = roles_from_config(load_config(checkpoint))
        parameters = compared_parameters(roles, before.shapes, after.shapes)
        found = compare(before, after, parameters, Questions())
    assert content["weight_change"]["all"]["count"] == found.changes["all"].count
    assert content["weight_change"]["quantized"]["mean"] == found.changes["quantized"].mean
    assert list(content["weight_change"]["all"]["quantiles"]) == ["0.5", "0.9", "0.99", "0.999"]
    rows = {(r["granularity"], r["bits"], r["weights"]): r for r in content["overlap"]}
    assert set(rows) == {(g, b, w) for g in ("global", "tensor") for b in (16, 8, 4) for w in ("quantized", "all")}
    tensors = [t for t in content["tensors"] if t["quantized"]]
    same = sum(t["overlap"][-1]["overlap"] * t["weight_change"]["count"] for t in tensors)
    assert tensors[0]["overlap"][-1]["bits"] == 4
    assert rows["tensor", 4, "quantized"]["overlap"] == pytest.approx(
        same / sum(t["weight_change"]["count"] for t in tensors)
    )
    assert [row["format"] for row in content["delivered"]] == ["nf4"]
    assert [layer["layer"] for layer in content["layers"]] == [0]


def test_every_figure_stands_as_small_png_and_as_svg(out):
    names = {"layers", "quantized_self", "tensors", "delivered"}
    assert {path.name for path in out.iterdir()} == {"analysis.json"} | {
        f"{name}.{ending}" for name in names for ending in ("png", "svg")
    }
    for name in names:
        assert 2_000 < (out / f"{name}.png").stat().st_size < 100_000
        assert xml.etree.ElementTree.parse(out / f"{name}.svg").getroot().tag.endswith("svg")


def test_the_table_says_overlap_and_delivery(tmp_path, capsys, checkpoint, unlearned):
    command = ["analyze", "--reference", checkpoint, "--model", unlearned, "--out", str(tmp_path / "out")]
    main([*command, "--bits", "4", "--grids", "minmax-floor", "symmetric", "--formats", "fp4"])
    shown = capsys.readouterr().out
    for word in (
        "exact",
        "bucket overlap",
        "tensor-wise",
        "symmetric",
        "expected",
        "fp4",
        "signal/noise",
        "along",
    ):
        assert word in shown
    assert "…" not in shown, "a figure was cut off"


def test_without_formats_nothing_is_said_of_delivery(tmp_path, capsys, checkpoint, unlearned):
    out = tmp_path / "out"
    command = ["analyze", "--reference", checkpoint, "--model", unlearned, "--out", str(out), "--bits", "4"]
    main([*command, "--granularities", "tensor", "--formats"])
    assert "delivers" not in capsys.readouterr().out
    assert not (out / "delivered.png").exists()
    assert json.loads((out / "analysis.json").read_text())["delivered"] == []


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as status:
        main(["analyze", *arguments])
    assert status.value.code == 2
    return capsys.readouterr().err


def test_a_folder_that_holds_an_analysis_is_refused_and_left_alone(tmp_path, capsys, checkpoint):
    (tmp_path / "analysis.json").write_text("precious")
    error = refused(capsys, "--reference", checkpoint, "--model", checkpoint, "--out", str(tmp_path))
    assert "already holds an analysis" in error
    assert (tmp_path / "analysis.json").read_text() == "precious"


def test_bits_out_of_range_are_refused(tmp_path, capsys, checkpoint):
    error = refused(
        capsys, "--reference", checkpoint, "--model", checkpoint, "--out", str(tmp_path / "o"), "--bits", "17"
    )
    assert "bits must lie in 1 … 16" in error


def test_another_architecture_is_refused_by_tensor(tmp_path, capsys, checkpoint, unlearned):
    other = tiny_llama(vocab_size=300, width=64, layers=2, heads=2, positions=256, seed=1)
    save_model(other, load_tokenizer(checkpoint), tmp_path / "other", {})
    out = tmp_path / "out"
    error = refused(capsys, "--reference", checkpoint, "--model", str(tmp_path / "other"), "--out", str(out))
    assert "different architectures" in error
    assert not out.exists()


def test_a_nan_is_refused_by_tensor_and_model(tmp_path, capsys, checkpoint, unlearned):
    folder = tmp_path / "broken"
    load_model(unlearned, torch.float32).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 1] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    error = refused(capsys, "--reference", checkpoint, "--model", str(folder), "--out", str(tmp_path / "out"))
    assert f"NaN in model.layers.0.mlp.up_proj.weight of {folder}" in error


def test_no_checkpoint_folder_is_refused(tmp_path, capsys, checkpoint):
    error = refused(capsys, "--reference", str(tmp_path), "--model", checkpoint, "--out", str(tmp_path / "out"))
    assert "no checkpoint in Hugging Face format" in error


def test_the_folder_is_named_after_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for model in ("logs/news/quail-1/model", "checkpoints/other"):
        (tmp_path / model).mkdir(parents=True)
    assert name_of("logs/news/quail-1/model") == "news-quail-1-model"
    assert name_of(str(tmp_path / "logs/news/quail-1/model/")) == "news-quail-1-model"
    assert name_of("./checkpoints/other") == "other"
    assert name_of("muse-bench/MUSE-News_target") == "muse-bench-MUSE-News_target"
    (tmp_path.parent / "elsewhere/run/model").mkdir(parents=True, exist_ok=True)
    assert name_of("../elsewhere/run/model") == "elsewhere-run-model"


def test_two_models_are_analyzed_without_naming_a_folder(checkpoint, unlearned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for model in (unlearned, checkpoint):
        main(["analyze", "--reference", checkpoint, "--model", model, "--bits", "4", "--formats"])
    assert {path.name for path in (tmp_path / "logs/analysis").iterdir()} == {
        name_of(unlearned),
        name_of(checkpoint),
    }


@pytest.mark.parametrize("columns", [80, 120])
def test_the_tables_fit_the_terminal_and_cut_no_figure_off(checkpoint, unlearned, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    found = analyze(checkpoint, unlearned, formats=["nf4", "fp4"])
    print_comparison(found.comparison, found.questions)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    widest = Console(width=1000)
    for table in found.tables():
        with widest.capture() as capture:
            widest.print(table)
        for figure in re.findall(r"[\d.]+e[-+]\d\d|\d+\.\d{3}\+?", capture.get()):
            assert figure in text


@pytest.fixture(scope="module")
def with_text(tmp_path_factory, checkpoint, unlearned):
    """What `analyze` says of a forget text of one's own."""
    folder = tmp_path_factory.mktemp("with-text")
    text = folder / "my.txt"
    text.write_text("\n\n".join(f"The mayor of town {number} likes old bridges." for number in range(40)))
    load_tokenizer(checkpoint).save_pretrained(unlearned)
    command = ["analyze", "--reference", checkpoint, "--model", unlearned, "--out", str(folder / "out")]
    main([*command, "--bits", "4", "--formats", "nf4", "--benchmark", "own", "--data.forget", str(text)])
    return json.loads((folder / "out/analysis.json").read_text()), text


def test_a_forget_text_predicts_by_the_slope_of_its_nll(with_text, checkpoint, unlearned):
    content, text = with_text
    before, after = (load_model(name, torch.float32) for name in (checkpoint, unlearned))
    windows = load_benchmark("own").read(unlearned, {"forget": str(text)}).windows["forget"]
    nlls = [float(window_nlls(model, windows, 1).mean()) for model in (before, after)]
    assert content["forget_text"] == {
        "windows": len(windows),
        "nll_reference": pytest.approx(nlls[0]),
        "nll_model": pytest.approx(nlls[1], rel=1e-5),
    }
    after.requires_grad_()
    losses = [after(input_ids=window[None], labels=window[None]).loss for window in windows]
    torch.stack(losses).mean().backward()
    quantized = BitsAndBytes("nf4").quantize(load_model(unlearned, torch.float32))
    fall = 0.0
    for name, layer in quantized.named_modules():
        if hasattr(getattr(layer, "weight", None), "quant_state"):
            weight = after.get_submodule(name).weight
            rounded = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            fall += float((weight.grad.double() * (weight.detach() - rounded).double()).sum())
    (delivered,) = content["delivered"]
    assert delivered["slope_rounded_off"] == pytest.approx(fall, rel=1e-3)
    rise = nlls[1] - nlls[0]
    expected = None if rise <= 0 else pytest.approx(1 - max(0, fall) / rise, rel=1e-3)
    assert delivered["predicted_to_arrive_by_text"] == expected
    assert rise > 0, "the test needs an update that raises the NLL"


def test_both_predictions_have_a_column(tmp_path, capsys, with_text, checkpoint, unlearned):
    command = ["analyze", "--reference", checkpoint, "--model", unlearned, "--out", str(tmp_path / "out")]
    main([*command, "--bits", "4", "--formats", "nf4", "--benchmark", "own", "--data.forget", str(with_text[1])])
    assert "by text" in " ".join(capsys.readouterr().out.split())
    main([*command[:-1], str(tmp_path / "without"), "--bits", "4", "--formats", "nf4"])
    shown = capsys.readouterr().out
    assert "predicted" in shown
    assert "text" not in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.forget", "my.txt"], "are of a benchmark"),
        (["--benchmark", "own", "--data.forget", "my.txt", "--formats"], "Name --formats"),
        (["--benchmark", "own", "--data.forget", "nowhere.txt"], "nowhere.txt"),
        (["--benchmark", "nonesuch"], "no such benchmark"),
    ],
)
def test_a_text_that_cannot_be_asked_is_refused(tmp_path, capsys, checkpoint, options, said):
    out = tmp_path / "out"
    error = refused(capsys, "--reference", checkpoint, "--model", checkpoint, "--out", str(out), *options)
    assert said in error
    assert not out.exists()
