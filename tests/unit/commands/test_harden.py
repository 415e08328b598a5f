"""`quail harden` from the command line to a checkpoint that evaluates as it says."""

import json

import pytest
import torch
from safetensors.torch import load_file

from quail_lightning import harden
from quail_lightning.cli import main
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmarks import load_benchmark
from quail_lightning.hardening import Windows, nlls_of
from quail_lightning.models.checkpoint import load_model, save_model
from quail_lightning.quantization.rounded_weights import WeightLevels


@pytest.fixture(scope="module")
def texts(tmp_path_factory, corpus_folder):
    """Forget and retain text of the shared corpus as files, as options of own text."""
    folder = tmp_path_factory.mktemp("texts")
    options = {"max_len": 32}
    for name, part in (("forget", "forget"), ("retain", "retain1")):
        path = folder / f"{name}.txt"
        path.write_text("\n\n".join(json.loads((corpus_folder / f"raw/{part}.json").read_text())))
        options[name] = str(path)
    return options


@pytest.fixture(scope="module")
def unlearned(tmp_path_factory, checkpoint, texts):
    """The shared model after ascent on the forget windows, by small steps, in bfloat16."""
    model, tokenizer = load_model(checkpoint, torch.float32), load_tokenizer(checkpoint)
    windows = load_benchmark("own").read(checkpoint, texts).windows["forget"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(12):
        optimizer.zero_grad()
        (-model(input_ids=windows, labels=windows).loss).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("unlearned") / "model"
    save_model(model.bfloat16(), tokenizer, folder, {"made_by": "a test", "target": checkpoint})
    return str(folder)


def arguments(checkpoint, model, texts, out, *others):
    data = [part for name, value in texts.items() for part in (f"--data.{name}", str(value))]
    return ["harden", checkpoint, model, "--benchmark", "own", *data, "--out", str(out), *others]


def test_the_checkpoint_is_what_the_table_says(tmp_path, checkpoint, unlearned, texts, capsys):
    out = tmp_path / "hardened"
    main(arguments(checkpoint, unlearned, texts, out, "--precisions", "uniform4-tensor"))
    shown = capsys.readouterr().out
    assert f"saved: {out}" in shown
    noted = json.loads((out / "provenance.json").read_text())
    assert (noted["made_by"], noted["target"]) == ("a test", checkpoint)
    moved = noted["hardened"]["moved"]["uniform4-tensor"]
    assert moved > 0
    assert noted["hardened"]["of"] == unlearned
    assert f"{moved:,}" in shown
    before, after = load_file(f"{unlearned}/model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name: int((before[name] != after[name]).sum()) for name in before}
    assert 0 < sum(changed.values()) <= moved
    assert not any(count for name, count in changed.items() if "proj" not in name)
    windows = load_benchmark("own").read(unlearned, texts).windows
    sets = Windows(windows["forget"], windows["retain"])
    nlls = []
    for folder in (unlearned, str(out)):
        model = load_model(folder, torch.float32)
        nlls.append(nlls_of(model, WeightLevels.of("uniform4-tensor", model), sets, lambda *_: None))
    assert nlls[1].forget.mean() > nlls[0].forget.mean() + 0.05
    assert f"{nlls[0].forget.mean():.2f}"[:3] in shown
    assert "uniform4-tensor" in (out / "README.md").read_text()


def test_from_python_with_a_retrained_model_as_the_limit(tmp_path, checkpoint, unlearned, texts):
    """A retrained model that knows the text is no limit."""
    with pytest.raises(InputError, match="retrained model finds the forget text as likely"):
        harden(checkpoint, unlearned, "fp4", tmp_path / "out", "own", data=texts, retrained=checkpoint)
    made = harden(checkpoint, unlearned, ["fp4"], tmp_path / "out", "own", data=texts)
    assert made.folder == tmp_path / "out"
    before, after = made.came_back["fp4"]
    assert 0 <= after.value < before.value or after.value <= 0.01
    assert set(made.returning) <= {"fp4"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precisions": ["awq4"]}, "follow from the weights alone"),
        ({"precisions": ["nf5"]}, "nf5"),
        ({"precisions": ["bf16"]}, "bf16 quantizes no weight"),
        ({"precisions": []}, "no format to harden for"),
        ({"benchmark": "muse-mews"}, "no such benchmark"),
        ({"device": "tpu"}, "no such device"),
        ({"data": {"max_len": 32}}, "forget"),
        ({"model": "there/is/none"}, "there/is/none"),
    ],
)
def test_bad_input_ends_before_a_model_is_loaded(
    tmp_path, checkpoint, unlearned, texts, change, said, monkeypatch
):
    monkeypatch.setattr("quail_lightning.commands.harden.load_model", None)
    usual = {"target": checkpoint, "model": unlearned, "precisions": ["fp4"], "benchmark": "own", "data": texts}
    with pytest.raises(InputError, match=said):
        harden(**usual | {"out": tmp_path / "out"} | change)
    assert not list(tmp_path.iterdir())


def test_a_model_in_which_nothing_was_forgotten_is_refused(tmp_path, checkpoint, texts):
    with pytest.raises(InputError, match="nothing was forgotten"):
        harden(checkpoint, checkpoint, "fp4", tmp_path / "out", "own", data=texts)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_kept(tmp_path, checkpoint, unlearned, texts):
    with pytest.raises(InputError, match="exists already"):
        harden(checkpoint, unlearned, "fp4", tmp_path, "own", data=texts)


def test_a_quantized_model_is_refused(tmp_path, checkpoint, unlearned, texts):
    main(["quantize", unlearned, "--to", "nf4", "--out", str(tmp_path / "nf4")])
    with pytest.raises(InputError, match="quantized already"):
        harden(checkpoint, tmp_path / "nf4", "fp4", tmp_path / "out", "own", data=texts)


def test_a_retrained_model_of_other_sizes_is_refused(tmp_path, checkpoint, unlearned, texts):
    from quail_lightning.models.tiny import tiny_llama

    tokenizer = load_tokenizer(checkpoint)
    model = tiny_llama(vocab_size=len(tokenizer), width=64, layers=2, heads=2, positions=256, seed=1)
    save_model(model, tokenizer, tmp_path / "deeper", {})
    with pytest.raises(InputError, match="other names or sizes"):
        harden(checkpoint, unlearned, "fp4", tmp_path / "out", "own", data=texts, retrained=tmp_path / "deeper")


def test_models_of_other_tokenizers_are_refused(tmp_path, checkpoint, unlearned, texts):
    from quail_lightning.models.tiny import tiny_llama, train_tokenizer

    tokenizer = train_tokenizer(["other words in another text, none of them known"], vocab_size=270)
    vocabulary = len(load_tokenizer(checkpoint))
    model = tiny_llama(vocab_size=vocabulary, width=64, layers=1, heads=2, positions=256, seed=1)
    save_model(model, tokenizer, tmp_path / "other", {})
    with pytest.raises(InputError, match="tokenizers differ"):
        harden(tmp_path / "other", unlearned, "fp4", tmp_path / "out", "own", data=texts)
