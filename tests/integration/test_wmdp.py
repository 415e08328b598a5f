"""WMDP's corpora forgotten by RMU, and asked by tasks of the LM Evaluation Harness, on a small model."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from quail_lightning.cli import main
from quail_lightning.models.checkpoint import read_provenance, save_model
from quail_lightning.models.tiny import tiny_llama, train_tokenizer
from quail_lightning.run.results import read_results

PARTS = ("bio-forget-corpus", "cyber-forget-corpus", "wikitext")
TASKS = {"wmdp_trees": "acc", "trees": "acc_norm"}  # name → another figure than the first


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small corpora, two tasks about trees and a model of eight layers."""
    here = tmp_path_factory.mktemp("wmdp")
    words = "oak pine elm ash fir birch maple rowan yew alder hazel larch"
    texts = {part: [f"{part} {number} grows beside {words}" for number in range(6)] for part in PARTS}
    for part, documents in texts.items():
        (here / f"corpora/{part}.jsonl").parent.mkdir(exist_ok=True)
        (here / f"corpora/{part}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents))
    tokenizer = train_tokenizer([text for documents in texts.values() for text in documents], 300)
    model = tiny_llama(vocab_size=len(tokenizer), width=64, layers=8, heads=2, positions=64, seed=1)
    save_model(model.bfloat16(), tokenizer, here / "target", {"made_by": "tests"})
    write_tasks(here / "tasks")
    return here


def write_tasks(folder):
    folder.mkdir()
    questions = [{"ask": chr(65 + n), "choices": ["elm", "oak", "yew", "fir"], "label": n % 4} for n in range(12)]
    (folder / "trees.jsonl").write_text("\n".join(map(json.dumps, questions)))
    for name in TASKS:
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(folder / "trees.jsonl")},
                "cache_dir": str(folder / "cache"),
            },
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{ask}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "label",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


@pytest.fixture(autouse=True)
def stand_there(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quail"])
    monkeypatch.chdir(folder)


def fit(*arguments):
    main(
        [
            *("fit", "--config", "wmdp.yaml", "--config", "method/rmu_wmdp.yaml", "--data.corpus=corpora"),
            *("--model.target=target", "--model.gradient_checkpointing=false", "--data.max_len=24"),
            *("--evaluation.precisions=[nf4]", "--trainer.accelerator=cpu"),
            *arguments,
        ]
    )


def refused(capsys, command, *arguments):
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


WITHOUT_HARNESS = ("--evaluation.suite.forget_tasks=null", "--evaluation.suite.utility=null")
OF_CONFIG = {
    "forget_tasks": {"tasks": ["wmdp_trees"], "task_folder": "tasks"},
    "utility": {"tasks": ["trees", "wmdp_trees"], "task_metrics": {"trees": "acc_norm"}, "task_folder": "tasks"},
}
MEASURED = {"nll_forget", "nll_retain"}


def test_without_the_harness_rmu_moves_its_three_matrices_and_the_losses_are_measured(folder):
    fit(*WITHOUT_HARNESS, "--trainer.logger.init_args.version=plain")
    rows = {(row.model, row.precision): row.metrics for row in read_results(folder / "logs/wmdp/plain")}
    assert rows.keys() == {(model, at) for model in ("target", "unlearned") for at in ("bf16", "nf4")}
    assert rows["target", "nf4"].keys() == MEASURED
    assert rows["target", "bf16"]["nll_forget"].n == 12
    assert rows["target", "bf16"]["nll_retain"].n == 6
    made = read_provenance(folder / "logs/wmdp/plain/model")
    assert made["terms"]["forget"]["class"] == "Misdirection"
    note = json.loads((folder / "logs/wmdp/plain/results.json").read_text())["note"]
    assert "WMDP, bio and cyber" in note
    from safetensors.torch import load_file

    before, after = (load_file(Path(of) / "model.safetensors") for of in ("target", "logs/wmdp/plain/model"))
    moved = {name for name, weight in before.items() if not weight.float().equal(after[name].float())}
    assert moved == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (5, 6, 7)}


def test_the_tasks_of_the_shipped_config_are_refused_where_their_data_or_the_harness_is_missing(folder, capsys):
    said = refused(capsys, fit, "--trainer.logger.init_args.version=refused")
    assert "wmdp_bio" in said or "pip install 'quail-lightning[eval]'" in said
    assert not (folder / "logs/wmdp/refused").exists()


@pytest.mark.parametrize("by", ["config", "command line"])
def test_harness_tasks_by_name_stand_in_the_results_and_guessing_is_the_yardstick(by, folder):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    if by == "config":
        (folder / "tasks.yaml").write_text(yaml.safe_dump({"evaluation": {"suite": OF_CONFIG}}))
        options = ["--config", "tasks.yaml"]
    else:
        options = [
            f"--evaluation.suite.{section}.{name}={value if isinstance(value, str) else json.dumps(value)}"
            for section, given in OF_CONFIG.items()
            for name, value in given.items()
        ]
    version = by.replace(" ", "-")
    fit(*options, "--allow-code", f"--trainer.logger.init_args.version={version}")
    run = folder / "logs/wmdp" / version
    rows = {(row.model, row.precision): row.metrics for row in read_results(run)}
    asked = {"forget_task_wmdp_trees", "task_trees", "task_wmdp_trees"}
    assert rows["target", "nf4"].keys() == MEASURED | asked
    assert {rows["unlearned", "bf16"][name].n for name in asked} == {12}
    verdicts = json.loads((run / "results.json").read_text())["verdicts"]
    knows = rows["target", "bf16"]["forget_task_wmdp_trees"].low > 25  # of four answers
    assert {verdicts[at]["known"] for at in ("bf16", "nf4")} == {"yes" if knows else "no"}
    assert all(("no better than guessing" in found["text"]) != knows for found in verdicts.values())


def test_saved_models_are_asked_the_same_and_what_is_finished_is_not_run_again(folder):
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

    def evaluate(*arguments):
        tasks = ("--forget_tasks.tasks=[wmdp_trees]", "--forget_tasks.task_folder=tasks", "--allow-code")
        more = ("--utility.tasks=[trees]", "--utility.task_folder=tasks", "--device=cpu", "--json=out.json")
        main(["evaluate", "target", "--benchmark", "wmdp", *tasks, *more, *arguments])
        return json.loads(Path("out.json").read_text())["rows"][0]

    row = evaluate("--corpus", "corpora")
    assert row["metrics"].keys() == MEASURED | {"forget_task_wmdp_trees", "task_trees"}
    assert not row["reused"]
    assert {"forget_tasks", "utility", "windows"} <= set(evaluate("--corpus", "corpora")["reused"])
    assert evaluate()["metrics"].keys() == {"forget_task_wmdp_trees", "task_trees"}  # without the corpora


def test_a_benchmark_without_corpora_and_tasks_leaves_nothing_to_measure(capsys):
    command = ["evaluate", "target", "--benchmark", "wmdp", "--device=cpu"]
    said = refused(capsys, main, command)
    assert "'wmdp' leaves nothing to measure" in said
    assert "--forget_tasks.tasks" in said
