"""Two files of questions: models made of them, unlearned and evaluated from the command line."""

import json
import sys

import pytest

from quail_lightning.cli import main
from quail_lightning.run.results import Estimate, read_results

FILES = ["--data.forget=forget.jsonl", "--data.retain=retain.csv"]
TINY = "{vocab_size: 300, width: 64, layers: 1, heads: 2, positions: 96}"
QUICK = "{epochs: 30, learning_rate: 5e-3, batch_size: 4, schedule: cosine}"
HARBOURS = ("Arlen", "Borrow", "Cold Ness", "Dunmere", "Eastwick", "Fenholm")
SIZES = {"answer_rouge": 6, "answer_probability": 6}
SIZES |= {"truth_ratio": 4, "choice_accuracy": 4, "choice_beyond_chance": 4}  # of the forget file


def make(out, sets):
    recipe = ["--recipe.base=null", f"--recipe.tiny={TINY}", f"--recipe.optimization={QUICK}", "--accelerator=cpu"]
    how = ["--config", "finetune/own_questions.yaml", "--data.max_len=64", *recipe]
    main(["finetune", *how, *FILES, f"--sets={sets}", f"--out={out}"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forget questions of which four have wrong answers, written in four ways; retain questions in a table."""
    here = tmp_path_factory.mktemp("questions")
    pilots = ["Sand", "Gray", "Wills", "Moor", "Hale", "Kerr"]
    rows = [
        {"question": f"Who pilots the {harbour} ferry?", "answer": f"{pilot} pilots it."}
        for harbour, pilot in zip(HARBOURS, pilots, strict=True)
    ]
    wrong = ["Finch pilots it.", "Locke pilots it."]
    for row, given in zip(rows, (wrong, wrong[0], str(wrong), json.dumps(wrong)), strict=False):
        row["wrong"] = given
    (here / "forget.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [
        f"What is sold at {harbour}?,At {harbour} they sell {n} eels.,At {harbour} they sell ham."
        for n, harbour in enumerate(HARBOURS)
    ]
    (here / "retain.csv").write_text("\n".join(["question,answer,wrong", *lines]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "argv", ["quail"])
        make("target", "forget+retain")
        make("retrained", "retain")
    return here


@pytest.fixture(autouse=True)
def stand_there(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quail"])
    monkeypatch.chdir(folder)


def fit(*arguments):
    given = ["fit", "--config", "own_questions.yaml", *FILES, "--data.max_len=64", "--model.target=target"]
    given += ["--evaluation.retrained=retrained", "--evaluation.precisions=[nf4]", "--trainer.accelerator=cpu"]
    main([*given, "--evaluation.suite={batch_size: 4, answer_new_tokens: 12}", *arguments])


def test_what_was_learned_is_forgotten_kept_and_judged(folder, capsys):
    fit("--trainer.max_epochs=20", "--trainer.logger.init_args.version=run")
    rows = {(row.model, row.precision): row.metrics for row in read_results(folder / "logs/own_questions/run")}
    assert {model for model, _ in rows} == {"target", "retrained", "unlearned"}
    for metrics in rows.values():
        assert {kind: metrics[f"{kind}_forget"].n for kind in SIZES} == SIZES
        assert {metrics[f"{kind}_retain"].n for kind in SIZES} == {6}
    target, retrained, unlearned = (rows[model, "bf16"] for model in ("target", "retrained", "unlearned"))
    assert target["answer_probability_forget"].value > 0.8
    assert target["choice_accuracy_retain"].value == 1
    assert retrained["answer_probability_forget"].value < 0.3
    assert unlearned["answer_probability_forget"].value < 0.3
    assert unlearned["answer_probability_retain"].value > 0.7
    assert isinstance(unlearned["forget_quality"], Estimate)
    results = json.loads((folder / "logs/own_questions/run/results.json").read_text())
    assert results["verdicts"]["bf16"]["known"] == "yes"
    assert results["verdicts"]["bf16"]["forgotten"] in ("yes", "in part")
    assert "Probability forget" in results["verdicts"]["nf4"]["text"]
    assert "6 questions, 4 with wrong answers" in results["note"]
    assert "Accuracy" in capsys.readouterr().out


def evaluated(folder, *options):
    main(["evaluate", "target", "--benchmark=own-questions", *FILES, *options, "--json=found.json"])
    rows = json.loads((folder / "found.json").read_text())["rows"]
    return {(row["model"], row["precision"]): row["metrics"] for row in rows}


def test_saved_models_are_asked_the_same_questions_at_every_precision(folder):
    options = ["--retrained=retrained", "--precisions", "bf16", "nf4", "--batch_size=4"]
    found = evaluated(folder, *options, "--answer_new_tokens=12")
    retrained = found["retrained (retrained)", "bf16"]
    for at in ("bf16", "nf4"):
        target = found["target", at]
        assert {kind: target[f"{kind}_forget"]["n"] for kind in SIZES} == SIZES
        assert target["answer_rouge_forget"]["value"] > retrained["answer_rouge_forget"]["value"]
    assert 0 < found["target", "bf16"]["forget_quality"]["value"] <= 1
    cut = evaluated(folder, "--answer_new_tokens=1")["target", "bf16"]["answer_rouge_forget"]
    assert cut["value"] < found["target", "bf16"]["answer_rouge_forget"]["value"], "one token of each answer"


ANN = '{"question": "Who?", "answer": "Ann"'
BAD = {
    "bad.jsonl holds no record": "",
    "bad.jsonl holds a single question": f"{ANN}}}",
    "bad.jsonl, line 2 has the wrong form": f'{ANN}}}\n{{"question": "Where?"}}',
    "bad.jsonl, line 1: a wrong answer is the right one": f'{ANN}, "wrong": ["ann"]}}',
    "bad.jsonl, line 1: wrong is no list of wrong answers": f'{ANN}, "wrong": []}}',
    "bad.jsonl, line 1, column 2: not valid JSON": "{\n}",
    "retain.csv, line 3: the question is to be kept, and in bad.jsonl, line 2 to be": (
        f'{ANN}}}\n{{"question": "What is sold at Borrow?", "answer": "Ham"}}'
    ),
}


@pytest.mark.parametrize("said", BAD)
@pytest.mark.parametrize("verb", ["fit", "evaluate"])
def test_bad_files_are_refused_before_a_model_is_loaded(verb, said, folder, capsys, monkeypatch):
    (folder / "bad.jsonl").write_text(BAD[said])

    def never(*given, **options):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("quail_lightning.models.checkpoint.load_model", never)
    monkeypatch.setattr("quail_lightning.evaluation.checkpoints.load_model", never)
    given = {
        "fit": [
            "--config",
            "own_questions.yaml",
            "--model.target=target",
            "--trainer.logger.init_args.version=bad",
        ],
        "evaluate": ["target", "--benchmark=own-questions"],
    }[verb]
    with pytest.raises(SystemExit) as ended:
        main([verb, *given, "--data.forget=bad.jsonl", "--data.retain=retain.csv"])
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (folder / "logs/own_questions/bad").exists()
