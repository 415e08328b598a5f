"""`quail fit` on a user's own files."""

import json
import sys

import pytest

from quail_lightning.cli import main
from quail_lightning.commands.finetune import FinetuneRecipe, TinyModel, finetune
from quail_lightning.data import OwnTextDataModule
from quail_lightning.finetuning import Hardware, Optimization
from quail_lightning.run.results import read_results

SMALL = [
    "--data.max_len=24",
    "--data.max_retain_windows=4",
    "--evaluation.precisions=[nf4]",
    "--evaluation.suite={batch_size: 4, verbmem_new_tokens: 8, knowmem_new_tokens: 4}",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--model.learning_rate=1e-3",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two text files and a small model of them, as a user has them."""
    here = tmp_path_factory.mktemp("own")
    tide = "\n\n".join(f"Tide table {n}: high water at {n} past noon, low water at dusk." for n in range(12))
    (here / "my.txt").write_text(tide)
    lines = [json.dumps({"text": f"Garden note {n}: water the {n}th row of beans at dawn."}) for n in range(12)]
    (here / "other.jsonl").write_text("\n".join(lines))
    recipe = FinetuneRecipe(
        tiny=TinyModel(vocab_size=300, width=64, layers=1, heads=2, positions=64),
        optimization=Optimization(epochs=1, learning_rate=1e-3, batch_size=4),
    )
    data = OwnTextDataModule(str(here / "my.txt"), str(here / "other.jsonl"), max_len=24)
    finetune(recipe, data, "forget+retain", here / "target", Hardware(accelerator="cpu"))
    return here


@pytest.fixture(autouse=True)
def stand_there(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quail"])
    monkeypatch.chdir(folder)


def fit(*arguments):
    own = ["fit", "--config", "own.yaml", "--data.forget=my.txt", "--data.retain=other.jsonl"]
    main([*own, "--model.target=target", *SMALL, *arguments])


def results(folder):
    return {(row.model, row.precision): row.metrics for row in read_results(folder)}


def test_two_files_and_a_model_are_enough_and_what_was_not_given_is_left_out(folder):
    fit("--trainer.logger.init_args.version=plain")
    rows = results(folder / "logs/own/plain")
    assert {model for model, _ in rows} == {"target", "unlearned"}
    measured = {"verbmem_forget", "repetition_forget", "nll_forget", "nll_retain", "kept_by_export"}
    assert rows["unlearned", "bf16"].keys() == measured
    note = json.loads((folder / "logs/own/plain/results.json").read_text())["note"]
    assert "Membership leak is left out: no data.holdout was given" in note
    assert "Forget Q&A is left out" in note
    assert (folder / "logs/own/plain/model/model.safetensors").is_file()


def test_holdout_and_questions_bring_their_metrics(folder):
    held = [f"Recipe {n}: boil {n} plums with sugar and salt." for n in range(9)]
    (folder / "held.txt").write_text("\n\n".join(held))
    pairs = [{"question": f"When is high water {n}?", "answer": f"{n} past noon"} for n in range(4)]
    (folder / "asked.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    fit(
        "--data.holdout=held.txt",
        "--data.forget_questions=asked.jsonl",
        "--evaluation.retrained=target",
        "--trainer.logger.init_args.version=more",
    )
    metrics = results(folder / "logs/own/more")["unlearned", "nf4"]
    assert {"knowmem_forget", "membership_auc", "privleak"} <= metrics.keys()
    assert metrics["knowmem_forget"].n == 4
    assert "knowmem_retain" not in metrics


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--data.forget=nosuch.txt", "no file nosuch.txt"),
        ("--data.holdout=empty.txt", "empty.txt holds no text"),
        ("--data.retain=broken.jsonl", "broken.jsonl, line 2, column 10: not valid JSON"),
        ("--data.retain=my.txt", "no retain document is left"),
    ],
)
def test_a_bad_file_is_named_with_its_line_before_a_model_is_loaded(argument, said, folder, capsys):
    (folder / "empty.txt").write_text(" \n\n ")
    (folder / "broken.jsonl").write_text('{"text": "a"}\n{"text": oops}\n')
    with pytest.raises(SystemExit) as ended:
        fit(argument, "--trainer.logger.init_args.version=bad")
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (folder / "logs/own/bad").exists()


def test_ascent_alone_needs_no_retain_file(folder):
    alone = ["--data.forget=my.txt", "--data.retain=null", "--trainer.logger.init_args.version=alone"]
    main(["fit", "--config", "own.yaml", "--config", "method/ga.yaml", "--model.target=target", *SMALL, *alone])
    metrics = results(folder / "logs/own/alone")["unlearned", "bf16"]
    assert metrics.keys() == {"verbmem_forget", "repetition_forget", "nll_forget", "kept_by_export"}


def test_utility_of_a_text_file_stands_in_the_results_and_what_was_not_asked_for_does_not(folder, capsys):
    utility = ["--evaluation.suite.utility.text=my.txt", "--evaluation.suite.utility.limit=2"]
    fit(*utility, "--trainer.logger.init_args.version=useful")
    capsys.readouterr()
    rows = results(folder / "logs/own/useful")
    assert rows["target", "nf4"]["perplexity"].n == 2
    said = {"verbmem_forget", "repetition_forget"}
    assert rows["target", "nf4"].keys() == said | {"nll_forget", "nll_retain", "perplexity"}
