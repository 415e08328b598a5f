"""Making targets and retrained models."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest
import torch

from quail_lightning.commands.finetune import FinetuneRecipe, TinyModel, finetune
from quail_lightning.data import MuseDataModule, OwnTextDataModule
from quail_lightning.data.text_digests import text_digests
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.finetuning import Hardware, Optimization
from quail_lightning.finetuning.module import FinetuningModule
from quail_lightning.functional.masking import side_by_side
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.checkpoint import load_model, read_provenance
from quail_lightning.storage.locks import hold, lock_beside, released_afterwards

RECIPE = FinetuneRecipe(
    tiny=TinyModel(vocab_size=300, width=64, layers=1, heads=2, positions=64),
    optimization=Optimization(epochs=2, learning_rate=1e-3, batch_size=4),
)
HOLD = """
import sys
from pathlib import Path
from quail_lightning.storage.locks import hold, lock_beside
hold(lock_beside(Path(sys.argv[1])), "it")
print("held", flush=True)
sys.stdin.read()
"""
QUIET = Hardware(accelerator="cpu")


@pytest.fixture
def data(corpus_folder):
    return MuseDataModule(str(corpus_folder), max_len=32)


@pytest.fixture
def made(tmp_path, data):
    finetune(RECIPE, data, "forget+retain", tmp_path / "target", QUIET)
    return tmp_path / "target"


def test_the_same_recipe_gives_the_same_weights(tmp_path, data, made):
    torch.manual_seed(99)  # nothing outside the recipe may matter
    finetune(RECIPE, data, "forget+retain", tmp_path / "again", QUIET)
    assert (made / "model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()


def test_target_and_retrained_share_the_tokenizer_but_not_the_weights(tmp_path, data, made):
    finetune(RECIPE, data, "retain", tmp_path / "retrained", QUIET)
    assert (made / "tokenizer.json").read_text() == (tmp_path / "retrained/tokenizer.json").read_text()
    assert (made / "model.safetensors").read_bytes() != (tmp_path / "retrained/model.safetensors").read_bytes()


def test_a_finished_model_is_reused_without_being_touched(data, made):
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert finetune(RECIPE, data, "forget+retain", made, QUIET) is False
    assert (made / "model.safetensors").stat().st_mtime_ns == before


def test_two_at_once_make_one_model_the_second_by_waiting_or_not_at_all(tmp_path, data):
    with released_afterwards():
        hold(lock_beside(tmp_path / "target"), "it")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "target")],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"target is in use by process {other.pid}"):
            finetune(RECIPE, data, "forget+retain", tmp_path / "target", QUIET)
        Timer(0.3, other.stdin.close).start()
        assert finetune(RECIPE, data, "forget+retain", tmp_path / "target", QUIET, alone=True)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_another_recipe_or_seed_is_not_taken_for_the_finished_one(data, made):
    with pytest.raises(InputError, match="differ in recipe"):
        finetune(replace(RECIPE, seed=1), data, "forget+retain", made, QUIET)
    with pytest.raises(InputError, match="differ in sets"):
        finetune(RECIPE, data, "retain", made, QUIET)


def test_changed_documents_are_noticed(tmp_path, corpus_folder, made):
    other = shutil.copytree(corpus_folder, tmp_path / "other")
    (other / "raw/forget.json").write_text(json.dumps(["something else entirely, and long enough for a window"]))
    with pytest.raises(InputError, match="texts_sha256"):
        finetune(RECIPE, MuseDataModule(str(other), max_len=32), "forget+retain", made, QUIET)


def test_the_holdout_is_noted_and_decides_nothing(tmp_path, corpus_folder, made):
    other = shutil.copytree(corpus_folder, tmp_path / "other")
    (other / "privleak/holdout.json").write_text(json.dumps(["quite another holdout"]))
    noted = read_provenance(made)["texts_sha256"]
    assert noted == text_digests(MuseDataModule(str(corpus_folder)))
    assert noted["holdout"] != text_digests(MuseDataModule(str(other)))["holdout"]
    assert finetune(RECIPE, MuseDataModule(str(other), max_len=32), "forget+retain", made, QUIET) is False


def test_a_folder_of_unknown_origin_is_refused(tmp_path, data):
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="holds another model"):
        finetune(RECIPE, data, "retain", tmp_path / "mine", QUIET)


def test_training_goes_on_from_a_base_checkpoint(tmp_path, data, made):
    recipe = FinetuneRecipe(base=str(made), optimization=Optimization(epochs=1, learning_rate=1e-3, batch_size=4))
    finetune(recipe, data, "forget+retain", tmp_path / "further", QUIET)
    windows = data.cut_windows(_tokenizer(made)).forget
    before, after = (_nll(folder, windows) for folder in (made, tmp_path / "further"))
    assert after < before
    assert read_provenance(tmp_path / "further")["recipe"]["base"] == str(made)


def test_a_base_with_other_weights_of_the_same_size_is_noticed(tmp_path, data, made):
    recipe = FinetuneRecipe(base=str(made), optimization=Optimization(epochs=1, learning_rate=1e-3, batch_size=4))
    finetune(recipe, data, "retain", tmp_path / "further", QUIET)
    weights = made / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors in .* is not what was saved there"):
        finetune(recipe, data, "retain", tmp_path / "further", QUIET)
    (made / "provenance.json").unlink()  # replaced on purpose
    with pytest.raises(InputError, match="differ in base_sha256"):
        finetune(recipe, data, "retain", tmp_path / "further", QUIET)


def test_a_window_longer_than_the_positions_is_refused_before_training(tmp_path, corpus_folder):
    with pytest.raises(InputError, match="65 tokens is longer than the model's 64 positions"):
        finetune(RECIPE, MuseDataModule(str(corpus_folder), max_len=65), "retain", tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_a_recipe_starts_from_exactly_one_thing():
    with pytest.raises(InputError, match="exactly one"):
        FinetuneRecipe()
    with pytest.raises(InputError, match="exactly one"):
        FinetuneRecipe(base="a", tiny=TinyModel())


def _tokenizer(folder):
    from quail_lightning.data.tokenizer import load_tokenizer

    return load_tokenizer(str(folder))


def _nll(folder, windows):
    model = load_model(str(folder), torch.float32)
    with torch.no_grad():
        return model(input_ids=windows, labels=windows).loss.item()


def test_training_stops_when_the_last_epochs_mean_nll_is_low_enough(tmp_path, data):
    optimization = replace(RECIPE.optimization, epochs=50, schedule="constant", stop_at_nll=5.0)
    finetune(replace(RECIPE, optimization=optimization), data, "retain", tmp_path / "half", QUIET)
    whole = replace(optimization, stop_at_nll=None)
    finetune(replace(RECIPE, optimization=whole), data, "retain", tmp_path / "full", QUIET)
    windows = data.cut_windows(_tokenizer(tmp_path / "half")).retain
    assert _nll(tmp_path / "full", windows) < 3.0 < _nll(tmp_path / "half", windows) < 5.2


def test_question_answer_files_are_learned_by_their_answers(tmp_path):
    """Both sets' windows go through together whatever their widths, and the questions are not learned."""
    asked = ["Who rows?", "Who sails far beyond the northern lighthouse?"]
    for name, answer in (("forget", "Maud"), ("retain", "Ned of the harbour")):
        rows = [{"question": f"{question} ({name})", "answer": answer} for question in asked]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = [str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain")]
    learning = replace(RECIPE, optimization=Optimization(epochs=40, learning_rate=3e-3, batch_size=4))
    questions = {}
    for loss_on in ("answer", "all"):
        data, out = OwnTextDataModule(*files, max_len=64, loss_on=loss_on), tmp_path / loss_on
        finetune(learning, data, "forget+retain", out, QUIET)
        model, tokenizer = load_model(str(out), torch.float32), load_tokenizer(str(out))
        answers = window_nlls(model, side_by_side(list(replaced(data, "answer").cut_windows(tokenizer))))
        assert answers.max() < 0.3
        every = side_by_side(list(replaced(data, "all").cut_windows(tokenizer)))
        questions[loss_on] = float(window_nlls(model, every).mean())
        assert read_provenance(out)["loss_on"] == loss_on
    assert questions["all"] < 0.5 < 2 < questions["answer"]
    with pytest.raises(InputError, match="they differ in loss_on"):
        finetune(learning, data, "forget+retain", tmp_path / "answer", QUIET)


def replaced(data, loss_on):
    return OwnTextDataModule(data.forget_file, data.retain_file, max_len=64, loss_on=loss_on)


def test_weight_decay_shrinks_matrices_alone_and_by_the_decoupled_factor():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = torch.nn.Parameter(torch.full((2, 2), 4.0))
            self.bias = torch.nn.Parameter(torch.full((2,), 4.0))

    layer = Layer()
    module = FinetuningModule(layer, Optimization(learning_rate=0.5, weight_decay=0.1))
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    module.configure_optimizers().step()
    assert layer.matrix.tolist() == [[pytest.approx(4 * (1 - 0.5 * 0.1))] * 2] * 2
    assert layer.bias.tolist() == [4.0, 4.0]


@pytest.mark.parametrize("decay", [-0.1, float("nan"), float("inf")])
def test_a_weight_decay_that_is_none_is_refused(decay):
    with pytest.raises(InputError, match="weight_decay"):
        Optimization(weight_decay=decay)


def test_models_made_without_weight_decay_stay_what_they_are(tmp_path, data, made):
    assert "weight_decay" not in read_provenance(made)["recipe"]["optimization"]
    decayed = replace(RECIPE, optimization=replace(RECIPE.optimization, weight_decay=0.5))
    with pytest.raises(InputError, match="they differ in recipe"):
        finetune(decayed, data, "forget+retain", made, QUIET)
    finetune(decayed, data, "forget+retain", tmp_path / "decayed", QUIET)
    assert read_provenance(tmp_path / "decayed")["recipe"]["optimization"]["weight_decay"] == 0.5
