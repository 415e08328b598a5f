"""What TensorBoard and other loggers are told of a run, read back from their files."""

import csv
import json
import re
import stat

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from quail_lightning.callbacks import QuantizedEvaluation
from quail_lightning.commands.leftovers import leftovers
from quail_lightning.data import MuseDataModule
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.evaluation.metrics import label_of
from quail_lightning.objectives import GradientAscent, KLRetention, LogitHinge
from quail_lightning.run.results import Estimate, read_results
from quail_lightning.unlearning import UnlearningModule


def fit(folder, corpus_folder, checkpoint, loggers, **options):
    torch.manual_seed(7)
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24, max_forget_windows=4)
    terms = {"forget": GradientAscent(), "retain": KLRetention(), "hinge": LogitHinge(step=0.5)}
    module = UnlearningModule(checkpoint, **terms, alpha=2.0, gamma=3.0, learning_rate=1e-3, **options)
    suite = EvaluationSuite(batch_size=4, verbmem_new_tokens=8, knowmem_new_tokens=4)
    evaluation = QuantizedEvaluation(["uniform4-tensor"], retrained=checkpoint, suite=suite, max_windows=3)
    Trainer(
        max_epochs=2,
        accelerator="cpu",
        precision="bf16-mixed",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=loggers,
        callbacks=[evaluation],
        default_root_dir=folder,
    ).fit(module, datamodule=data)


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus_folder, checkpoint):
    """The folder of a run with two loggers."""
    folder = tmp_path_factory.mktemp("run")
    loggers = [TensorBoardLogger(folder, name="tb", version="v"), CSVLogger(folder, name="csv", version="v")]
    fit(folder, corpus_folder, checkpoint, loggers)
    return folder


@pytest.fixture(scope="module")
def events(run):
    return EventAccumulator(str(run / "tb/v"), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def curve(events, tag):
    return [(event.step, event.value) for event in events.Scalars(tag)]


def rows(run):
    return {(row.model, row.precision, row.epoch): row.metrics for row in read_results(run / "tb/v")}


def test_one_chart_holds_all_precisions_of_a_metric_and_both_baselines(events):
    (config,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(config.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    scalars = events.Tags()["scalars"]
    for name in ("nll_forget", "verbmem_forget", "knowmem_retain"):
        patterns = charts[label_of(name).heading]
        drawn = {tag for tag in scalars if any(re.match(pattern, tag) for pattern in patterns)}
        possible = {f"eval/{each}/{name}" for each in ("bf16", "uniform4-tensor", "target", "retrained")}
        assert drawn == possible & set(scalars)
        assert f"eval/uniform4-tensor/{name}" in drawn
    assert "eval/uniform4-tensor/kept_forgetting$" in charts[label_of("kept_forgetting").heading]
    drawn = {tag for tag in scalars if any(re.match(pattern, tag) for pattern in charts["Losses"])}
    assert drawn == {"train/forget", "train/hinge", "train/retain"}
    shown = {tag for tag in scalars if any(re.match(p, tag) for patterns in charts.values() for p in patterns)}
    hidden = {tag for tag in scalars if tag.startswith("eval/")} - shown
    assert {tag.rsplit("/")[-1] for tag in hidden} <= {
        "delivered_forgetting",
        "delivered_forgetting_capped",
        "delivered_retain",
        "kept_by_export",
    }


def test_the_unlearned_model_starts_at_the_targets_own_figures(events, run):
    found = rows(run)
    for precision in ("bf16", "uniform4-tensor"):
        for name in ("nll_forget", "verbmem_forget"):
            steps, values = zip(*curve(events, f"eval/{precision}/{name}"), strict=True)
            expected = [found["target", precision, None][name].value]
            expected += [found["unlearned", precision, epoch][name].value for epoch in (1, 2)]
            assert values == pytest.approx(expected, rel=1e-6)
            assert steps[0] == 0
            assert 0 < steps[1] < steps[2]


def test_baselines_are_drawn_as_lines_over_all_steps(events, run):
    steps = [step for step, _ in curve(events, "eval/bf16/nll_forget")]
    for model in ("target", "retrained"):
        expected = rows(run)[model, "bf16", None]["nll_forget"].value
        assert curve(events, f"eval/{model}/nll_forget") == [(step, pytest.approx(expected)) for step in steps]


def test_no_figure_is_logged_twice(events):
    for tag in events.Tags()["scalars"]:
        steps = [step for step, _ in curve(events, tag)]
        assert len(steps) == len(set(steps)), tag


def test_losses_and_the_forget_nll_stand_beside_each_other(events):
    forget, nll = curve(events, "train/forget"), curve(events, "train/forget_nll")
    assert [(step, pytest.approx(-value, rel=1e-5)) for step, value in forget] == nll
    assert all(value > 0 for _, value in curve(events, "train/retain_nll"))
    assert curve(events, "train/hinge")


def test_hyperparameters_stand_beside_the_final_metrics_and_tell_no_path(events, run, checkpoint):
    content = events.summary_metadata
    started = HParamsPluginData.FromString(content["_hparams_/session_start_info"].plugin_data.content)
    found = dict(started.session_start_info.hparams)
    assert found["method"].string_value == "ga_klr_quail"
    assert found["learning_rate"].number_value == pytest.approx(1e-3)
    assert (found["alpha"].number_value, found["gamma"].number_value) == (2.0, 3.0)
    assert found["hinge/step"].number_value == 0.5
    assert {"schedule", "weighting", "weight_precision", "batch_size", "max_epochs"} <= found.keys()
    assert checkpoint not in str(found)
    declared = HParamsPluginData.FromString(content["_hparams_/experiment"].plugin_data.content)
    names = {info.name.tag for info in declared.experiment.metric_infos}
    last = {
        f"eval/{precision}/{name}"
        for (model, precision, epoch), metrics in rows(run).items()
        if (model, epoch) == ("unlearned", 2)
        for name, measure in metrics.items()
        if isinstance(measure, Estimate)
    }
    assert names == last
    assert yaml.safe_load((run / "tb/v/hparams.yaml").read_text())["alpha"] == 2.0


def test_the_verdict_of_each_precision_is_a_text(events, run):
    written = json.loads((run / "tb/v/results.json").read_text())["verdicts"]
    for precision, verdict in written.items():
        logged = events.Tensors(f"verdict/{precision}/text_summary")
        assert len(logged) == 2
        assert logged[-1].tensor_proto.string_val[0].decode() == verdict["text"]


def test_answers_stand_side_by_side_in_private_events_that_clean_removes(events, run):
    assert not any("responses" in tag for tag in events.Tags()["tensors"])
    folder = run / "tb/v/responses/samples"
    samples = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    assert len(samples.Tags()["tensors"]) <= 3
    logged = samples.Tensors("responses/text 1/text_summary")
    assert len(logged) == 2
    text = logged[-1].tensor_proto.string_val[0].decode()
    shown = ["truth", "target bf16", "retrained bf16", "unlearned bf16", "unlearned uniform4-tensor"]
    assert re.findall(r"^\| (\w.*?) \|", text, re.MULTILINE) == ["prompt", *shown]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (left,) = [left for left in leftovers([run]) if left.folder == folder]
    assert (left.kind, left.foreign) == ("responses", 0)


def test_other_loggers_get_the_same_figures(events, run):
    with (run / "csv/v/metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["eval/uniform4-tensor/nll_forget"]]
    found = [(int(row["step"]), float(row["eval/uniform4-tensor/nll_forget"])) for row in logged]
    assert found == [(step, pytest.approx(v)) for step, v in curve(events, "eval/uniform4-tensor/nll_forget")]
    assert all(row["eval/target/nll_forget"] for row in logged)


def test_a_run_from_another_start_has_no_point_of_the_target(
    tmp_path, corpus_folder, checkpoint, tmp_path_factory
):
    start = tmp_path_factory.mktemp("start")
    (start / "again").symlink_to(checkpoint)
    logger = TensorBoardLogger(tmp_path, name="run", version="v")
    fit(tmp_path, corpus_folder, checkpoint, logger, start=str(start / "again"))
    events = EventAccumulator(str(tmp_path / "run/v")).Reload()
    assert min(step for step, _ in curve(events, "eval/bf16/nll_forget")) > 0
    assert min(step for step, _ in curve(events, "eval/target/nll_forget")) == 0


def test_without_a_logger_the_run_ends_as_well(tmp_path, corpus_folder, checkpoint):
    fit(tmp_path, corpus_folder, checkpoint, False)
    assert (tmp_path / "results.json").is_file()
    assert not (tmp_path / "responses/samples").exists()
