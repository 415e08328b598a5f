"""TOFU from the command line, on invented authors: models made, unlearned and evaluated."""

import json
import sys

import pytest

from quail_lightning.cli import main
from quail_lightning.evaluation.tofu import utility_parts
from quail_lightning.run.results import Estimate, read_results

SMALL = ["--data.authors={forget: 2, retain: 3, facts: 5}", "--evaluation.precisions=[nf4]"]
SMALL += ["--prepare.tiny={vocab_size: 400, width: 64, layers: 1, heads: 2, positions: 160}"]
SMALL += ["--prepare.optimization.epochs=30", "--prepare.optimization.learning_rate=8e-3"]
SMALL += ["--evaluation.suite={batch_size: 32, answer_new_tokens: 24}", "--trainer.accelerator=cpu"]
RUN = "logs/quickstart_tofu/run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("tofu")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "argv", ["quail"])
        version = "--trainer.logger.init_args.version=run"
        main(["fit", "--config", "quickstart_tofu.yaml", *SMALL, version, "--model.learning_rate=2e-3"])
    return here


@pytest.fixture(autouse=True)
def stand_there(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quail"])
    monkeypatch.chdir(folder)


def test_every_model_has_tofu_s_figures_at_every_precision_and_the_verdict(folder):
    rows = {(row.model, row.precision): row.metrics for row in read_results(folder / RUN)}
    assert {model for model, _ in rows} == {"target", "retrained", "unlearned"}
    for (model, _), metrics in rows.items():
        assert set(utility_parts()) < metrics.keys()
        assert {"model_utility", "extraction_strength", "exact_memorization"} < metrics.keys()
        assert ("forget_quality" in metrics) == (model != "retrained")
    target, retrained, unlearned = (rows[model, "bf16"] for model in ("target", "retrained", "unlearned"))
    assert target["answer_probability_forget"].value > 0.8
    assert retrained["answer_probability_forget"].value < 0.4
    assert unlearned["answer_probability_forget"].value < target["answer_probability_forget"].value
    assert isinstance(unlearned["forget_quality"], Estimate)
    verdicts = json.loads((folder / RUN / "results.json").read_text())["verdicts"]
    assert verdicts["bf16"]["known"] == "yes"
    assert set(verdicts) == {"bf16", "nf4"}


def test_saved_models_give_the_run_s_figures(folder):
    models = [f"checkpoints/quickstart_tofu/{name}" for name in ("target", "retrained")]
    how = ["--benchmark=tofu", "--corpus=checkpoints/quickstart_tofu/authors", "--data.max_len=128"]
    how += ["--answer_new_tokens=24", "--finished=finished", "--out=evaluated", "--device=cpu", "--batch_size=32"]
    main(["evaluate", models[0], f"--retrained={models[1]}", "--precisions", "bf16", *how])
    ran = {row.model: row.metrics for row in read_results(folder / RUN) if row.precision == "bf16"}
    found = {row.model.split("/")[-1].split(" ")[0]: row.metrics for row in read_results(folder / "evaluated")}
    for name in (*utility_parts(), "model_utility", "truth_ratio_forget", "answer_rouge_forget"):
        assert found["target"][name].value == pytest.approx(ran["target"][name].value, abs=1e-6), name
    assert found["target"]["forget_quality"].value == pytest.approx(ran["target"]["forget_quality"].value)
