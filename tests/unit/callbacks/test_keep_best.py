"""The best epoch's model is kept, by windows that nothing reported lies in."""

import json

import pytest
import torch
from lightning.pytorch import Callback
from plain_trainer import plain_trainer

from quail_lightning.callbacks import KeepBest, TrainingCheckpoint
from quail_lightning.data import MuseDataModule
from quail_lightning.data.text_digests import text_digests
from quail_lightning.errors import InputError
from quail_lightning.evaluation.rouge import rougeL_f1
from quail_lightning.inference.generation import generate
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.checkpoint import load_model, read_provenance, weights_digest
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.quantization import Unquantized, computing
from quail_lightning.run.training_state import last_checkpoint
from quail_lightning.unlearning import UnlearningModule


class Spoil(Callback):
    """Sharpens the outputs after the third epoch: the retain set becomes unlikelier."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.current_epoch == 2 and trainer.is_last_batch:
            with torch.no_grad():
                pl_module.model.lm_head.weight.mul_(3)


@pytest.fixture(autouse=True)
def _work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(folder, corpus_folder, checkpoint, epochs, ckpt_path=None, max_steps=-1, **options):
    best = KeepBest(True, ["bf16", "uniform4-tensor"], **{"forget_nll": 0.1} | options)
    terms = GradientAscent(), GradientDescent()
    module = UnlearningModule(checkpoint, *terms, learning_rate=1e-4, schedule="joint")
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24, schedule="joint")
    trainer = plain_trainer(
        max_epochs=epochs,
        max_steps=max_steps,
        precision="32-true",
        callbacks=[Spoil(), TrainingCheckpoint(True), best],
        default_root_dir=folder,
    )
    trainer.ckpt_path = ckpt_path
    trainer.fit(module, datamodule=data)
    return json.loads((folder / "validation.json").read_text()), best.windows, data


def by_hand(model, tokenizer, windows):
    """Mean ROUGE-L F1 of what follows the first half, 11 tokens and BOS, of 16 windows or all."""
    count = min(len(windows), 16)
    chosen = [windows[number * len(windows) // count] for number in range(count)]
    said = generate(model, tokenizer, [tokenizer.decode(window[1:12]) for window in chosen], 12, batch_size=8)
    scores = [rougeL_f1(tokenizer.decode(window[12:]), text) for window, text in zip(chosen, said, strict=True)]
    return 100 * sum(scores) / count


def test_the_best_epoch_is_kept_also_by_a_resumed_run(tmp_path, corpus_folder, checkpoint):
    found, windows, data = fit(tmp_path, corpus_folder, checkpoint, 3)
    scores = {entry["epoch"]: entry["shortfall"] for entry in found["epochs"]}
    best = min(scores, key=scores.get)
    assert list(scores) == [1, 2, 3]
    assert scores[3] > scores[2], "the third epoch was spoiled"
    (kept,) = tmp_path.glob("best-epoch-*")
    assert kept.name == f"best-epoch-{best}"
    assert read_provenance(kept)["finished_epochs"] == best
    assert read_provenance(kept)["texts_sha256"] == text_digests(data)
    assert read_provenance(kept)["target_sha256"] == weights_digest(checkpoint)
    # the figures are those of the model that was kept, on windows without a reported prompt
    model = load_model(str(kept), torch.bfloat16)
    with computing(model):
        nll = window_nlls(model, windows["forget"], 3).mean()
    assert found["epochs"][best - 1]["nll"]["bf16"]["forget"] == pytest.approx(float(nll), rel=1e-6)
    prompts = " ".join(f"{record.prompt} {record.truth}" for record in data.served.records.verbatim)
    for window in windows["forget"]:
        middle = data.served.tokenizer.decode(window[6:20].tolist())
        assert middle not in prompts

    # so are the prompts': a window's first half, and what a plain greedy loop makes of it
    model = load_model(str(kept), torch.bfloat16)
    assert found["epochs"][best - 1]["verbatim"]["bf16"] == {
        name: pytest.approx(by_hand(model, data.served.tokenizer, rows)) for name, rows in windows.items()
    }
    assert found["epochs"][0]["delivered"].keys() == {"uniform4-tensor"}

    (tmp_path / "validation.json").unlink()  # as if killed in the last epoch's validation
    again, *_ = fit(tmp_path, corpus_folder, checkpoint, 3, ckpt_path=last_checkpoint(tmp_path).folder)
    assert again["epochs"][-1] == found["epochs"][-1]


def test_of_a_damaged_history_the_best_models_own_figure_is_taken(tmp_path, corpus_folder, checkpoint, capsys):
    found, *_ = fit(tmp_path, corpus_folder, checkpoint, 1)
    text = (tmp_path / "validation.json").read_text()
    (tmp_path / "validation.json").write_text(text.replace('"epoch": 1', '"epoch": 1, "x": 2'))
    again, *_ = fit(tmp_path, corpus_folder, checkpoint, 2, ckpt_path=last_checkpoint(tmp_path).folder)
    assert "validation.json was edited" in capsys.readouterr().err
    assert [entry["epoch"] for entry in again["epochs"]] == [1, 2]
    assert again["epochs"][0]["shortfall"] == found["epochs"][0]["shortfall"]
    best = min(again["epochs"], key=lambda entry: entry["shortfall"])["epoch"]
    assert [path.name for path in tmp_path.glob("best-epoch-*")] == [f"best-epoch-{best}"]


def test_training_ends_where_the_completions_are_unlike_the_text(tmp_path, corpus_folder, checkpoint):
    always, *_ = fit(tmp_path / "always", corpus_folder, checkpoint, 3, stop_verbatim=100.0)
    assert [entry["epoch"] for entry in always["epochs"]] == [1]
    never, *_ = fit(tmp_path / "never", corpus_folder, checkpoint, 2, stop_verbatim=0.0)
    assert [entry["epoch"] for entry in never["epochs"]] == [1, 2]
    assert all(each["bf16"]["forget"] > 0 for each in (entry["verbatim"] for entry in never["epochs"]))
    last = last_checkpoint(tmp_path / "always").folder
    again, *_ = fit(tmp_path / "always", corpus_folder, checkpoint, 3, ckpt_path=last, stop_verbatim=100.0)
    assert again == always, "a run that had ended trains no further"
    kept = tmp_path / "always/validation.json"
    kept.write_text(kept.read_text().replace('"epoch": 1', '"epoch": 1, "x": 2'))  # edited, and so not believed
    fit(tmp_path / "always", corpus_folder, checkpoint, 1, ckpt_path=last, stop_verbatim=100.0)
    with pytest.raises(InputError, match=r"stop_verbatim is a score of 0 … 100 over validation prompts"):
        KeepBest(True, forget_nll=1.0, max_prompts=0, stop_verbatim=20.0)


def test_an_epoch_cut_short_is_not_considered(tmp_path, corpus_folder, checkpoint):
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24, schedule="joint")
    data.setup("fit")
    steps = len(data.train_dataloader())
    assert steps > 1
    found, *_ = fit(tmp_path, corpus_folder, checkpoint, 3, max_steps=steps + 1, forget_nll=9.0)
    assert [entry["epoch"] for entry in found["epochs"]] == [1]
    assert [path.name for path in tmp_path.glob("best-epoch-*")] == ["best-epoch-1"]


def test_a_run_goes_on_only_with_the_figures_that_its_best_was_chosen_by(tmp_path, corpus_folder, checkpoint):
    fit(tmp_path, corpus_folder, checkpoint, 1)
    with pytest.raises(InputError, match=r"chosen by other figures.*Resume with the same best section"):
        fit(tmp_path, corpus_folder, checkpoint, 2, last_checkpoint(tmp_path).folder, forget_nll=9.0)


def test_sixteen_bits_are_evaluated_without_another_copy(tmp_path, corpus_folder, checkpoint, monkeypatch):
    monkeypatch.setattr(Unquantized, "quantize", lambda *_: pytest.fail("a second 16-bit copy"))
    found, *_ = fit(tmp_path, corpus_folder, checkpoint, 1)
    assert "bf16" in found["epochs"][0]["nll"]


def test_without_a_goal_nothing_says_what_is_best():
    with pytest.raises(InputError, match=r"best\.retrained.*best\.forget_nll"):
        KeepBest(True)


def test_a_negative_number_of_prompts_is_refused():
    with pytest.raises(InputError, match=r"best\.max_prompts must not be negative; got -1"):
        KeepBest(True, forget_nll=3.0, max_prompts=-1)


def test_precisions_that_need_calibration_are_refused():
    with pytest.raises(InputError, match="need no calibration; got 'awq4'"):
        KeepBest(True, ["bf16", "awq4"], forget_nll=3.0)
