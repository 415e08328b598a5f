"""One attacked copy at a time, made once for all precisions after it, and keyed by what it was made by."""

from copy import deepcopy
from dataclasses import dataclass, field, replace

import pytest
import torch

from quail_lightning.attacks import NamedAttack, Prune
from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.evaluation.evaluator import Evaluator
from quail_lightning.evaluation.metrics import Asked
from quail_lightning.evaluation.precision import named_precision
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.arithmetic import hold_for_computing

WINDOWS = {"forget": torch.arange(2, 26).reshape(2, 12)}


@dataclass
class Counted(Prune):
    fraction: float
    made: list[str] = field(default_factory=list)
    scope = "layer"

    def attack(self, model, texts, progress=None):
        self.made.append(f"{self.fraction} of {sum(int((p == 0).sum()) for p in model.parameters()) > 0}")
        return super().attack(model, texts, progress)


@pytest.fixture
def asked(tiny_llama, tokenizer):
    return Asked(EvaluationRecords(), WINDOWS, EvaluationSuite(batch_size=2), tokenizer, tiny_llama().config)


def test_each_chain_is_made_once_in_whatever_order_it_is_asked_for(tiny_llama, asked):
    attack = Counted(0.3)
    after = (NamedAttack("prune30", attack, {}),)
    twice = (*after, NamedAttack("prune50", Counted(0.5, attack.made), {}))
    precisions = [
        replace(named_precision("nf4"), name="a+nf4", attacks=after),
        named_precision("bf16"),
        replace(named_precision("bf16"), name="a", attacks=after),
        replace(named_precision("bf16"), name="a+b", attacks=twice),
    ]
    loaded = []

    def load(dtype):
        loaded.append(dtype)
        return tiny_llama(dtype)

    found = Evaluator(precisions).evaluate(load, asked, lambda *_: None)
    assert list(found) == ["a+nf4", "bf16", "a", "a+b"]
    assert attack.made == ["0.3 of False", "0.5 of True"]
    assert len(loaded) == 1  # the chain grows from the model without attack
    plain = tiny_llama(torch.bfloat16)
    pruned = Prune(0.3).attack(plain, {})
    for name, model in (("bf16", plain), ("a", pruned), ("a+b", Prune(0.5).attack(pruned, {}))):
        held = hold_for_computing(deepcopy(model), "cpu")  # as this machine multiplies
        expected = float(window_nlls(held, WINDOWS["forget"]).mean())
        assert found[name].measures["nll_forget"].value == pytest.approx(expected, abs=1e-6), name
    assert found["a"].measures["nll_forget"].value != found["a+nf4"].measures["nll_forget"].value
