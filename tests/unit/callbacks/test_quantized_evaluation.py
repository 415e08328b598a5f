"""The epoch-end evaluation observes and changes nothing."""

import json
import random
import stat

import pytest
import torch
from huggingface_hub import ModelCard
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from quail_lightning.callbacks import ExportModel, QuantizedEvaluation
from quail_lightning.data import MuseDataModule
from quail_lightning.data.calibration import CalibrationRequest
from quail_lightning.data.text_digests import text_digests
from quail_lightning.errors import InputError
from quail_lightning.evaluation import EvaluationSuite, privleak_measure
from quail_lightning.evaluation.benchmark_log import read_log
from quail_lightning.evaluation.rescoring import score_log
from quail_lightning.models.checkpoint import load_model, read_provenance, save_model, weights_digest
from quail_lightning.models.tiny import train_tokenizer
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.quantization import Gptq
from quail_lightning.run.results import read_results
from quail_lightning.unlearning import UnlearningModule

SUITE = EvaluationSuite(batch_size=4, verbmem_new_tokens=8, knowmem_new_tokens=4)


def evaluation(**options):
    settings = {"precisions": ["nf4", "uniform4-tensor"], "suite": SUITE, "max_windows": 3} | options
    return QuantizedEvaluation(**settings)


def parts(corpus_folder, checkpoint):
    torch.manual_seed(7)
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24, max_forget_windows=4)
    unlearning = UnlearningModule(checkpoint, GradientAscent(), GradientDescent(), learning_rate=1e-3)
    return unlearning, data


def trainer(tmp_path, callbacks, epochs=2, logger=True):
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        precision="bf16-mixed",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=TensorBoardLogger(tmp_path, name="run", version="v") if logger else False,
        callbacks=callbacks,
        default_root_dir=tmp_path,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus_folder, checkpoint):
    """A run of two epochs, evaluated after each: its folder and its module."""
    folder = tmp_path_factory.mktemp("finished")
    unlearning, data = parts(corpus_folder, checkpoint)
    callbacks = [evaluation(retrained=checkpoint), ExportModel()]
    trainer(folder, callbacks).fit(unlearning, datamodule=data)
    return folder / "run/v", unlearning


def test_every_model_precision_and_epoch_has_its_row(finished):
    rows = [(row.model, row.precision, row.epoch) for row in read_results(finished[0])]
    precisions = ["bf16", "nf4", "uniform4-tensor"]
    expected = [(model, precision, None) for model in ("target", "retrained") for precision in precisions]
    expected += [("unlearned", precision, epoch) for epoch in (1, 2) for precision in precisions]
    assert rows == expected


def test_rows_hold_what_the_records_allow_and_survival_only_where_it_means_something(finished):
    rows = {(row.model, row.precision, row.epoch): row.metrics for row in read_results(finished[0])}
    asked = {"verbmem_forget", "knowmem_forget", "knowmem_retain", "membership_auc", "privleak"}
    asked |= {"nll_forget", "nll_retain", "repetition_forget", "extraction_strength", "exact_memorization"}
    survival = {"delivered_forgetting", "delivered_forgetting_capped", "delivered_retain", "kept_forgetting"}
    survival |= {"recovery_membership_auc_capped"}
    survival |= {f"recovery_{name}_forget{kind}" for name in ("verbmem", "knowmem") for kind in ("", "_capped")}
    assert rows["target", "bf16", None].keys() == asked
    assert rows["retrained", "nf4", None].keys() == asked
    assert rows["unlearned", "bf16", 2].keys() == asked | {"kept_by_export"}
    assert rows["unlearned", "nf4", 2].keys() == asked | survival


def test_privleak_is_measured_against_the_retrained_models_own_auc(finished):
    rows = {(row.model, row.precision, row.epoch): row.metrics for row in read_results(finished[0])}
    against = rows["retrained", "bf16", None]["membership_auc"]
    for row in (rows["retrained", "bf16", None], rows["unlearned", "nf4", 2]):
        assert row["privleak"] == privleak_measure(row["membership_auc"], against)


def test_every_precision_has_its_verdict_in_results_and_tensorboard(finished):
    written = json.loads((finished[0] / "results.json").read_text())["verdicts"]
    assert list(written) == ["bf16", "nf4", "uniform4-tensor"]
    asked = {"known", "forgotten", "survives", "over_forgotten", "utility", "text"}
    assert all(set(each) == asked for each in written.values())
    events = EventAccumulator(str(finished[0])).Reload()
    assert "verdict/nf4/text_summary" in events.Tags()["tensors"]


def test_what_was_said_is_kept_for_its_owner_and_scores_to_the_same_figures(finished):
    rows = {(row.model, row.precision, row.epoch): row.metrics for row in read_results(finished[0])}
    for model, epoch in (("target", None), ("retrained", None), ("unlearned", 2)):
        folder = finished[0] / "responses" / f"{model}-nf4"
        again = score_log(read_log(folder), None).measures
        assert again["verbmem_forget"] == rows[model, "nf4", epoch]["verbmem_forget"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.glob("*/log.json"))


def test_scalars_stand_in_tensorboard_under_precision_and_metric(finished):
    events = EventAccumulator(str(finished[0])).Reload()
    unlearned = [row for row in read_results(finished[0]) if row.model == "unlearned"]
    found = {(row.precision, row.epoch): row.metrics for row in unlearned}
    for precision in ("bf16", "nf4"):
        logged = [event.value for event in events.Scalars(f"eval/{precision}/nll_forget") if event.step]
        expected = [found[precision, epoch]["nll_forget"].value for epoch in (1, 2)]
        assert logged == pytest.approx(expected, rel=1e-6)
    assert events.Scalars("train/forget")


def test_what_is_saved_is_what_was_evaluated(finished):
    folder, unlearning = finished
    saved = load_model(str(folder / "model"), torch.bfloat16)
    evaluated = unlearning.export.whole_copy(unlearning.model)
    for (name, left), (_, right) in zip(saved.state_dict().items(), evaluated.state_dict().items(), strict=True):
        assert torch.equal(left, right), name
    ids = torch.arange(3, 20)[None]
    assert torch.equal(saved(input_ids=ids).logits, evaluated(input_ids=ids).logits)
    assert read_provenance(folder / "model")["finished_epochs"] == 2


def test_the_model_s_provenance_and_card_say_what_it_was_made_from(finished, corpus_folder, checkpoint):
    found = read_provenance(finished[0] / "model")
    texts = text_digests(MuseDataModule(str(corpus_folder)))
    assert found["texts_sha256"] == texts
    assert all(texts.values())
    assert found["target_sha256"] == weights_digest(checkpoint)
    assert found["start_sha256"] is None
    card = (finished[0] / "model/README.md").read_text()
    for digest in (*texts.values(), found["target_sha256"]["model.safetensors"]):
        assert f"`{digest[:12]}`" in card


def test_the_model_has_a_card_with_all_rows_and_the_verdict_and_no_text(finished, corpus_folder):
    card = ModelCard.load(finished[0] / "model/README.md")
    assert card.data.library_name == "transformers"
    verdicts = json.loads((finished[0] / "results.json").read_text())["verdicts"]
    assert all(f"**{precision}**: {each['text']}" in card.text for precision, each in verdicts.items())
    for model in ("target", "retrained", "unlearned"):
        assert card.text.count(f"| {model} | nf4 |") == 1
    documents = json.loads((corpus_folder / "raw/forget.json").read_text())
    assert not any(document[:40] in card.text for document in documents)


def test_training_state_and_random_states_are_untouched(tmp_path, corpus_folder, checkpoint):
    weights, states = [], []
    for callbacks in ([], [evaluation()]):
        unlearning, data = parts(corpus_folder, checkpoint)
        random.seed(3)
        trainer(tmp_path, callbacks, logger=False).fit(unlearning, datamodule=data)
        weights.append(unlearning.model.state_dict())
        states.append((torch.get_rng_state(), random.getstate()))
        assert unlearning.model.training
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert torch.equal(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]


def test_last_epoch_is_evaluated_even_between_two_turns(tmp_path, corpus_folder, checkpoint):
    unlearning, data = parts(corpus_folder, checkpoint)
    trainer(tmp_path, [evaluation(precisions=[], every_n_epochs=2)], epochs=3).fit(unlearning, datamodule=data)
    epochs = [row.epoch for row in read_results(tmp_path / "run/v") if row.model == "unlearned"]
    assert epochs == [2, 3]


def test_without_a_retrained_model_privleak_is_left_out_and_not_zero(tmp_path, corpus_folder, checkpoint):
    unlearning, data = parts(corpus_folder, checkpoint)
    trainer(tmp_path, [evaluation(precisions=[])]).test(unlearning, datamodule=data)
    rows = read_results(tmp_path / "run/v")
    assert {row.model for row in rows} == {"target", "unlearned"}
    assert all("privleak" not in row.metrics and "membership_auc" in row.metrics for row in rows)


def test_a_folder_that_holds_another_run_is_refused_and_left_alone(tmp_path, corpus_folder, checkpoint):
    (tmp_path / "run/v").mkdir(parents=True)
    (tmp_path / "run/v/results.json").write_text(json.dumps("precious"))
    unlearning, data = parts(corpus_folder, checkpoint)
    with pytest.raises(InputError, match=r"already holds another run \(results\.json\)"):
        trainer(tmp_path, [evaluation()]).fit(unlearning, datamodule=data)
    assert (tmp_path / "run/v/results.json").read_text() == '"precious"'
    assert unlearning.model is None, "the model was loaded before the folder was checked"


def test_prompts_that_do_not_fit_are_refused_before_a_model_is_loaded(tmp_path, corpus_folder, checkpoint):
    unlearning, data = parts(corpus_folder, checkpoint)
    evaluating = trainer(tmp_path, [evaluation(suite=EvaluationSuite(verbmem_new_tokens=300))])
    with pytest.raises(InputError, match="verbmem_forget"):
        evaluating.fit(unlearning, datamodule=data)
    assert unlearning.model is None


def test_a_model_folder_that_exists_is_refused_before_training(tmp_path, corpus_folder, checkpoint):
    (tmp_path / "run/v/model").mkdir(parents=True)
    unlearning, data = parts(corpus_folder, checkpoint)
    with pytest.raises(InputError, match=r"run/v/model, which exists already"):
        trainer(tmp_path, [ExportModel()]).fit(unlearning, datamodule=data)
    assert unlearning.model is None


def test_a_retrained_model_with_another_tokenizer_is_refused(tmp_path, corpus_folder, checkpoint):
    tokenizer = train_tokenizer(["quite other words"], vocab_size=270)
    save_model(load_model(checkpoint, torch.bfloat16), tokenizer, tmp_path / "other", {})
    unlearning, data = parts(corpus_folder, checkpoint)
    with pytest.raises(InputError, match="another tokenizer than the target"):
        trainer(tmp_path, [evaluation(retrained=str(tmp_path / "other"))]).fit(unlearning, datamodule=data)


def test_sixteen_bit_row_is_named_after_the_export_dtype(tmp_path, corpus_folder, checkpoint):
    _, data = parts(corpus_folder, checkpoint)
    unlearning = UnlearningModule(checkpoint, GradientAscent(), GradientDescent(), export_dtype="float16")
    trainer(tmp_path, [evaluation(precisions=["int8"])]).test(unlearning, datamodule=data)
    assert {row.precision for row in read_results(tmp_path / "run/v")} == {"fp16", "int8"}
    with pytest.raises(InputError, match=r"'bf16' is not the model's export_dtype. Allowed: fp16"):
        trainer(tmp_path / "again", [evaluation(precisions=["bf16"])]).test(unlearning, datamodule=data)


def test_an_unknown_precision_is_refused_at_construction():
    with pytest.raises(InputError, match=r"nf5.*Did you mean nf4"):
        QuantizedEvaluation(precisions=["nf5"])


def test_calibrated_precisions_see_the_general_text_unless_the_retain_set_is_named(
    corpus_folder, checkpoint, tmp_path, monkeypatch
):
    seen = []
    original = Gptq.quantize
    monkeypatch.setattr(
        Gptq, "quantize", lambda self, model, tokens=None: seen.append(tokens) or original(self, model, tokens)
    )
    for source in ("general", "retain"):
        unlearning, data = parts(corpus_folder, checkpoint)
        request = CalibrationRequest(source, windows=4, length=16)
        evaluate = evaluation(precisions=["gptq4-group64"], calibration=request)
        run = trainer(tmp_path / source, [evaluate], epochs=1)
        run.test(unlearning, datamodule=data, verbose=False)
        target, unlearned = seen[-2:]
        assert target.shape == (4, 16)
        assert torch.equal(target, unlearned)
        note = json.loads((tmp_path / source / "run/v/results.json").read_text())["note"]
        assert f"gptq4-group64: 4 windows of at most 16 tokens, {source}" in note
    # windows of 24 tokens give one run of 16 each; four of them, evenly spread
    retain = data.served.windows.retain
    expected = retain[[number * len(retain) // 4 for number in range(4)], :16]
    assert torch.equal(seen[-1], expected)
    assert not torch.equal(seen[0], expected)


def test_a_calibration_text_that_is_too_short_is_refused_before_anything_is_evaluated(
    corpus_folder, checkpoint, tmp_path
):
    unlearning, data = parts(corpus_folder, checkpoint)
    evaluate = evaluation(precisions=["gptq4-group64"], calibration=CalibrationRequest("retain", windows=10_000))
    with pytest.raises(InputError, match="calibration text too short"):
        trainer(tmp_path, [evaluate]).fit(unlearning, datamodule=data)
    assert evaluate.rows == []


def test_attacks_are_rows_of_every_model_and_change_no_training(tmp_path, corpus_folder, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/attack").mkdir(parents=True)
    (tmp_path / "configs/attack/again.yaml").write_text(
        "class_path: quail_lightning.attacks.Relearn\ninit_args: {steps: 4, learning_rate: 0.003, share: 0.5}\n"
    )
    names, weights = ["nf4", "prune30", "prune30+nf4", "again"], []
    for chosen in (["nf4"], names):
        unlearning, data = parts(corpus_folder, checkpoint)
        folder = tmp_path / str(len(chosen))
        evaluate = evaluation(precisions=chosen, retrained=checkpoint)
        trainer(folder, [evaluate, ExportModel()], epochs=1).fit(unlearning, datamodule=data)
        weights.append({name: value.clone() for name, value in unlearning.model.state_dict().items()})
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    rows = {(row.model, row.precision): row.metrics for row in read_results(folder / "run/v")}
    assert {precision for _, precision in rows} == {"bf16", *names}
    assert all((model, "again") in rows for model in ("target", "retrained", "unlearned"))
    assert rows["unlearned", "again"]["nll_forget"].value < rows["unlearned", "bf16"]["nll_forget"].value
    assert "kept_forgetting" in rows["unlearned", "prune30+nf4"]
    verdicts = json.loads((folder / "run/v/results.json").read_text())["verdicts"]
    assert list(verdicts) == ["bf16", *names]
    card = (folder / "run/v/model/README.md").read_text()
    assert "**prune30+nf4**" in card
    events = EventAccumulator(str(folder / "run/v")).Reload()
    assert events.Scalars("eval/prune30+nf4/nll_forget")
    assert read_log(folder / "run/v/responses/unlearned-prune30+nf4").responses


def test_attacks_are_evaluated_without_training_too(tmp_path, corpus_folder, checkpoint):
    unlearning, data = parts(corpus_folder, checkpoint)
    trainer(tmp_path, [evaluation(precisions=["relearn20-small"])]).test(unlearning, datamodule=data)
    rows = {(row.model, row.precision): row.metrics for row in read_results(tmp_path / "run/v")}
    relearned, before = (rows["target", each]["nll_forget"].value for each in ("relearn20-small", "bf16"))
    assert relearned < before


def test_attacks_that_a_run_cannot_make_are_refused_before_a_model_is_loaded(tmp_path, corpus_folder, checkpoint):
    with pytest.raises(InputError, match="stands before the end of a chain"):
        evaluation(precisions=["nf4+prune30"])
    evaluate = evaluation(precisions=["prune30"])
    assert evaluate.attack_bits == 16
    evaluate.sharded = True
    with pytest.raises(InputError, match="attacks are made on a whole model"):
        evaluate._check_shards()
