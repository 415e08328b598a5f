"""The quickstart on a pretrained model, with a small random Llama in that model's place: the same way, quickly."""

import json
import sys

import pytest

from quail_lightning.cli import main
from quail_lightning.data import Newsroom
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.models.checkpoint import read_provenance, save_model, weights_digest
from quail_lightning.models.tiny import tiny_llama, train_tokenizer
from quail_lightning.run.results import read_results

pytestmark = pytest.mark.slow

SMALL = [
    "--prepare.base=base",
    "--prepare.optimization.epochs=1",
    "--data.newsroom={forget_articles: 6, retain_articles: 6, holdout_articles: 2, rounds: 1}",
    "--evaluation.precisions=[nf4]",
    "--evaluation.suite.verbmem_new_tokens=8",
    "--evaluation.suite.knowmem_new_tokens=4",
    "--evaluation.suite.max_prompts=2",
    "--evaluation.max_windows=2",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder that the command was run in."""
    folder = tmp_path_factory.mktemp("pretrained")
    Newsroom(6, 6, 2, rounds=1, seed=7).write(folder / "other")  # what the base model's tokenizer was made from
    texts = json.loads((folder / "other/raw/forget.json").read_text())
    tokenizer = train_tokenizer(texts, vocab_size=400)
    model = tiny_llama(vocab_size=len(tokenizer), width=64, layers=1, heads=2, positions=900, seed=1)
    save_model(model, tokenizer, folder / "base", {"made_by": "tests"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["quail"])
        main(["fit", "--config", "smollm2_quickstart.yaml", *SMALL])
        yield folder


def test_target_and_retrained_model_are_the_base_model_taught_both_sets_and_one(made):
    models = {name: made / "checkpoints/smollm2_quickstart" / name for name in ("target", "retrained")}
    base = weights_digest(str(made / "base"))
    for name, sets in (("target", "forget+retain"), ("retrained", "retain")):
        about = read_provenance(models[name])
        assert about["sets"] == sets
        assert about["base_sha256"] == base
        assert weights_digest(str(models[name])) != base
        assert load_tokenizer(str(models[name])).get_vocab() == load_tokenizer(str(made / "base")).get_vocab()


def test_the_general_questions_are_asked_of_every_model_at_every_precision_and_bear_on_the_verdict(made):
    folder = made / "logs/smollm2_quickstart/latest"
    rows = {(row.model, row.precision): row.metrics for row in read_results(folder)}
    assert rows.keys() == {(m, p) for m in ("target", "retrained", "unlearned") for p in ("bf16", "nf4")}
    for metrics in rows.values():
        assert metrics["general_questions"].n == 128
        assert {"verbmem_forget", "knowmem_forget", "knowmem_retain", "membership_auc"} <= metrics.keys()
    said = json.loads((folder / "results.json").read_text())
    assert said["verdicts"]["nf4"]["utility"] in ("yes", "in part", "no")
    assert "general_questions" in (folder / "results.csv").read_text()
    chosen = json.loads((folder / "responses/unlearned-bf16/general_questions/log.json").read_text())
    assert len(chosen) == 128
    assert chosen[0]["prompt"].startswith("Question: ")
