"""Min-K%++, gradient norm and the reference attack, from a model's texts to AUCs and what came back of them."""

import pytest
import torch
from torch import nn

from quail_lightning.data.questions import EvaluationRecords, MembershipTexts
from quail_lightning.errors import InputError
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.evaluation.attacks import attack_aucs, attack_scores
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, read_log, write_log
from quail_lightning.evaluation.survival import membership_return
from quail_lightning.inference.gradient_norm import gradient_norms
from quail_lightning.inference.likelihood import token_log_likelihoods
from quail_lightning.models.checkpoint import load_model, save_model
from quail_lightning.run.results import Estimate, Undefined

TEXTS = MembershipTexts(
    ("the first of the texts that were forgotten", "another one of them, a little longer than that"),
    ("a text that was kept, of some length",),
    ("a holdout text of the same kind", "two more words than the first", "the third of these, which ends them"),
)
RECORDS = EvaluationRecords(membership=TEXTS)
NAMES = {"membership_auc", "auc_loss", "auc_zlib", "auc_min_k_plus_plus", "auc_gradient_norm", "auc_reference"}


def share_below(forget, holdout):
    """How often a holdout text scores below a forget text: what the AUC of negated scores is."""
    pairs = [(f > h) + 0.5 * (f == h) for f in forget for h in holdout]
    return sum(pairs) / len(pairs)


@pytest.fixture
def reference(model, tokenizer, tmp_path):
    other = type(model)(model.config).float()
    save_model(other.to(torch.bfloat16), tokenizer, tmp_path / "reference", {})
    return str(tmp_path / "reference")


def test_min_k_plus_plus_is_the_mean_of_the_lowest_z_scores_by_hand():
    likelihoods, z_scores = (
        torch.tensor([-1.0, -2.0, -6.0, -1.0, -3.0]),
        torch.tensor([0.5, -1.0, -4.0, 1.0, -2.0]),
    )
    scores = attack_scores("Abc", likelihoods, likelihoods, z_scores)
    assert scores["Min-40%++"] == pytest.approx((4 + 2) / 2)
    assert scores["Min-20%++"] == 4
    assert scores["Min-40%"] == pytest.approx((6 + 3) / 2)
    assert not any("++" in name for name in attack_scores("Abc", likelihoods, likelihoods))


def test_every_attack_has_its_auc_and_the_log_gives_them_again(model, tokenizer, reference, tmp_path):
    suite = EvaluationSuite(batch_size=2, attacks="all", gradient_norm=True, reference_model=reference)
    log = BenchmarkLog()
    found = suite.evaluate(model, tokenizer, RECORDS, {}, log=log)
    assert found.keys() == NAMES
    assert all(isinstance(each, Estimate) and each.n == 5 for each in found.values())
    norms = [gradient_norms(model, tokenizer, side) for side in (TEXTS.forget, TEXTS.holdout)]
    assert found["auc_gradient_norm"].value == pytest.approx(share_below(*norms))
    other = load_model(reference, torch.float32)
    sides = []
    for side in (TEXTS.forget, TEXTS.holdout):
        nll, against = (
            [-float(each.double().mean()) for each in token_log_likelihoods(each_model, tokenizer, side)]
            for each_model in (model, other)
        )
        sides.append([a - b for a, b in zip(nll, against, strict=True)])
    assert found["auc_reference"].value == pytest.approx(share_below(*sides))
    scores = [row["Reference"] for row in log.membership["forget"]]
    assert scores == pytest.approx(sides[0], abs=0.05)  # the reference is run in bfloat16
    write_log(tmp_path / "log", log)
    again = read_log(tmp_path / "log")
    aucs, _ = attack_aucs(again.membership)
    assert aucs["forget_holdout_Gradient norm"] == found["auc_gradient_norm"].value
    assert aucs["forget_holdout_Min-40%++"] == found["auc_min_k_plus_plus"].value


def test_the_reported_attack_alone_takes_the_further_ones_that_are_asked_for(model, tokenizer, reference):
    suite = EvaluationSuite(batch_size=2, reference_model=reference)
    found = suite.evaluate(model, tokenizer, RECORDS, {})
    assert found.keys() == {"membership_auc", "auc_reference"}


def test_without_gradients_the_figure_is_undefined_with_its_reason_and_the_others_stay(model, tokenizer):
    suite = EvaluationSuite(batch_size=2, gradient_norm=True)
    model.model.layers[0].register_module("packed", nn.Module())
    model.model.layers[0].packed.register_buffer("qweight", torch.zeros(2, 2, dtype=torch.int32))
    found = suite.evaluate(model, tokenizer, RECORDS, {})
    assert isinstance(found["auc_gradient_norm"], Undefined)
    assert "packed and have no gradient" in found["auc_gradient_norm"].reason
    assert isinstance(found["membership_auc"], Estimate)


def test_a_reference_of_another_tokenizer_or_none_is_refused_before_anything_runs(model, tokenizer, checkpoint):
    for path, words in ((checkpoint, "has another tokenizer"), ("nowhere/at/all", "reference_model")):
        with pytest.raises(InputError, match=words):
            EvaluationSuite(reference_model=path).check(RECORDS, {}, tokenizer, model.config)
    with pytest.raises(InputError, match="whole on a device"):
        EvaluationSuite(gradient_norm=True).check_shards()


def area(value, half=0.02):
    return Estimate(value, 200, value - half, value + half)


def test_what_came_back_of_membership_by_hand():
    # retrained 0.5; target 0.1; unlearned 0.5 at 16 bits, 0.3 quantized: half of the way back
    given = [area(each) for each in (0.3, 0.5, 0.1, 0.1, 0.5, 0.5)]
    found = membership_return(*given)
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx((0.46 - 0.32) / (0.46 - 0.08), abs=0.06)
    assert found.low < 0.5 < found.high
    over = [area(0.5), area(0.9), *given[2:]]  # over-forgotten at 16 bits, ignorant when quantized
    assert membership_return(*over).value == pytest.approx(0)
    nothing = membership_return(area(0.1), area(0.11), *given[2:])
    assert isinstance(nothing, Undefined)
    blind = membership_return(given[0], given[1], area(0.5), *given[3:])
    assert isinstance(blind, Undefined)
    taught = [*given[:4], area(0.3), area(0.5)]  # after an attack the retrained model is as recognizable
    assert membership_return(*taught).value == pytest.approx(0.5)
    assert membership_return(*taught, attacked=True).value == pytest.approx(0)
