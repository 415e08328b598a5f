"""`quail fit` and `quail finetune` on labelled tweets and on RWKU."""

import json
import sys

import pytest

from quail_lightning.cli import main
from quail_lightning.models.checkpoint import read_provenance
from quail_lightning.run.results import read_results

TINY = "tiny={vocab_size: 400, width: 64, layers: 1, heads: 2, positions: 192}"
SMALL = [
    "--evaluation.precisions=[nf4]",
    "--evaluation.every_n_epochs=1",
    "--evaluation.max_windows=2",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the small second quickstart was run."""
    here = tmp_path_factory.mktemp("twitter")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "argv", ["quail"])
        main(
            [
                *("fit", "--config", "quickstart_twitter.yaml", *SMALL, f"--prepare.{TINY}"),
                *("--prepare.optimization.epochs=1", "--data.rounds=1", "--data.max_len=64"),
                "--data.invented={forget: 6, retain: 6, holdout: 4, empty: 1}",
                "--evaluation.suite={batch_size: 8, verbmem_new_tokens: 8, max_prompts: 2, max_texts: 3}",
            ]
        )
    return here


@pytest.fixture(autouse=True)
def stand_there(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quail"])
    monkeypatch.chdir(folder)


def test_the_second_quickstart_makes_tweets_models_and_the_table(folder):
    rows = {
        (row.model, row.precision): row.metrics for row in read_results(folder / "logs/quickstart_twitter/latest")
    }
    assert {model for model, _ in rows} == {"target", "retrained", "unlearned"}
    labels = {f"label_{kind}_{name}" for kind in ("accuracy", "f1", "auroc") for name in ("forget", "retain")}
    expected = labels | {"verbmem_forget", "repetition_forget", "membership_auc", "privleak"}
    expected |= {"nll_forget", "nll_retain"}
    assert rows["target", "nf4"].keys() == expected
    assert (folder / "checkpoints/quickstart_twitter/tweets/retain2.jsonl").is_file()


def test_finetune_makes_a_target_of_tweets_in_a_folder(folder, capsys):
    main(
        [
            *("finetune", "--config", "finetune/twitter.yaml", "--recipe.base=null", f"--recipe.{TINY}"),
            *("--data.corpus=checkpoints/quickstart_twitter/tweets", "--data.max_len=64"),
            *("--recipe.optimization.epochs=1", "--sets=retain", "--out=made", "--accelerator=cpu"),
        ]
    )
    assert read_provenance(folder / "made")["sets"] == "retain"


def test_rwku_is_asked_its_probes_after_refusal_training(folder):
    about = {"subject": "Ann Ash"}
    files = {
        f"{kind}_level{n}": about | {"query": "Who?", "answer": "Ann", "level": str(n), "type": "x"}
        for kind, n in (("forget", 1), ("forget", 2), ("forget", 3), ("neighbor", 1), ("neighbor", 2))
    }
    files["positive"] = about | {"text": "Ann Ash grew up beside the sea and wrote of it all her life. " * 6}
    files["reject"] = about | {
        "instruction": "Who is Ann Ash?",
        "input": "",
        "output": "I do not know the answer.",
    }
    (folder / "rwku").mkdir()
    for name, row in files.items():
        (folder / f"rwku/{name}.json").write_text(json.dumps([row]))
    main(
        [
            *("fit", "--config", "rwku.yaml", *SMALL, "--data.corpus=rwku", "--data.subjects=[Ann Ash]"),
            *("--data.max_len=48", "--data.train_on=refusal", "--model.gradient_checkpointing=false"),
            "--model.forget=quail_lightning.objectives.GradientDescent",
            *("--model.target=checkpoints/quickstart_twitter/target", "--evaluation.suite={batch_size: 4}"),
        ]
    )
    rows = read_results(folder / "logs/rwku/latest")
    probes = {"rwku_fb", "rwku_qa", "rwku_aa", "rwku_neighbor_fb", "rwku_neighbor_qa"}
    compared = {"delivered_forgetting", "kept_forgetting", "kept_by_export"}
    compared |= {f"recovery_{name}" for name in probes}
    assert all(row.metrics.keys() - compared == probes | {"nll_forget"} for row in rows)
