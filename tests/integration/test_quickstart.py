"""The quickstart at full size: its table must mean something."""

import sys

import pytest

from quail_lightning.cli import main
from quail_lightning.run.results import read_results, read_verdicts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Method → its run's folder; at two precisions only, and with the same baselines, to save time."""
    folder = tmp_path_factory.mktemp("quickstart")
    options = [
        "--evaluation.precisions=[nf4]",
        "--evaluation.every_n_epochs=10",
        "--evaluation.baselines=baselines",
    ]
    fragments = {"quail": [], "ga_gdr": ["--config", "method/ga_gdr.yaml"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["quail"])
        for method, fragment in fragments.items():
            version = f"--trainer.logger.init_args.version={method}"
            main(
                [
                    "fit",
                    "--config",
                    "quickstart.yaml",
                    *fragment,
                    *options,
                    "--trainer.limit_val_batches=0",
                    version,
                ]
            )
    return {method: folder / "logs/quickstart" / method for method in fragments}


@pytest.fixture(scope="module")
def run(runs):
    """The folder of the run as it is shipped."""
    return runs["quail"]


@pytest.fixture(scope="module")
def tables(runs):
    """Method → (model, precision) → metrics after the last epoch."""
    return {
        method: {(row.model, row.precision): row.metrics for row in read_results(folder)}
        for method, folder in runs.items()
    }


@pytest.fixture(scope="module")
def table(tables):
    """Of the run as it is shipped."""
    return tables["quail"]


def value(table, model, metric, precision="bf16"):
    return table[model, precision][metric].value


def test_the_target_knows_both_sets_at_sixteen_and_at_four_bits(table):
    for precision in ("bf16", "nf4"):
        for metric in ("verbmem_forget", "knowmem_forget", "knowmem_retain"):
            assert value(table, "target", metric, precision) >= 70


def test_the_retrained_model_keeps_the_retain_set_and_never_knew_the_forget_set(table):
    assert value(table, "retrained", "verbmem_forget") < 35
    assert value(table, "retrained", "knowmem_forget") < 35
    assert value(table, "retrained", "knowmem_retain") >= 0.9 * value(table, "target", "knowmem_retain")
    assert value(table, "target", "privleak") < -90
    assert 0.2 < value(table, "retrained", "membership_auc") < 0.8


def test_the_verdict_is_good_but_for_loops_at_every_precision(run):
    """On most processors gradient ascent ends in loops on the forget prompts, and the verdict says so."""
    found = read_verdicts(run)
    assert set(found) == {"bf16", "nf4"}
    for precision, verdict in found.items():
        text = f"{precision}: {verdict['text']}"
        assert [verdict[question] for question in ("known", "survives", "utility")] == ["yes"] * 3, text
        assert verdict["forgotten"] in ("yes", "in part"), text  # intervals are wide; see the NLL below
        assert verdict["over_forgotten"] == "no" or "OVER-FORGOTTEN (repetition" in text, text  # not the NLL


def test_forgetting_ends_near_what_the_retrained_model_knows(table):
    for precision in ("bf16", "nf4"):
        unlearned, retrained = (table[model, precision]["nll_forget"] for model in ("unlearned", "retrained"))
        assert 0.8 * retrained.low <= unlearned.value <= 1.25 * retrained.high
        assert value(table, "unlearned", "knowmem_retain", precision) >= 95


@pytest.mark.parametrize("method", ["quail", "ga_gdr"])
def test_unlearning_forgets_and_keeps_the_utility(tables, method):
    table = tables[method]
    for precision in ("bf16", "nf4"):  # float32 masters: the forgetting survives four bits
        unlearned = value(table, "unlearned", "verbmem_forget", precision)
        assert unlearned <= value(table, "retrained", "verbmem_forget", precision) + 10
    target, retrained, unlearned = (
        value(table, model, "knowmem_forget") for model in ("target", "retrained", "unlearned")
    )
    assert unlearned <= retrained + 0.2 * (target - retrained)  # no training on these answers, few questions
    assert value(table, "unlearned", "knowmem_retain") >= 0.8 * value(table, "target", "knowmem_retain")
    assert value(table, "unlearned", "kept_forgetting", "nf4") > 0.8
