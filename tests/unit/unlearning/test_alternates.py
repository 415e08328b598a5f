"""Steps on true and alternate answers, written out with plain torch on full logits."""

import json
import shutil

import pytest
import torch
from plain_trainer import plain_trainer
from torch.nn.functional import log_softmax, logsigmoid

from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import labels_of, token_numbers
from quail_lightning.functional.token_likelihood import IGNORED
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import DirectPreference, GradientAscent, LogitHinge
from quail_lightning.reference import CachedLogits, CachedStates, LiveReference
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adversary import LatentAdversary
from quail_lightning.unlearning.saliency import Saliency
from quail_lightning.unlearning.sophia import Sophia, SophiaG


@pytest.fixture
def corpus(tmp_path, corpus_folder):
    """Alternates of very different lengths."""
    folder = shutil.copytree(corpus_folder, tmp_path / "corpus")
    said = [("Which ash?", "ash", "no"), ("Which birch?", "birch", "elm"), ("Which oak?", "oak", "yew, or so")]
    rows = [dict(zip(("question", "answer", "alternate"), row, strict=True)) for row in said]
    (folder / "knowmem/forget_qa.json").write_text(json.dumps(rows))
    return folder


def data_module(corpus, checkpoint, **options):
    given = {"max_len": 60, "batch_size": 3, "alternates": "column", "max_retain_windows": 4} | options
    return MuseDataModule(str(corpus), checkpoint, **given)


def fit(unlearning, data, epochs=1):
    trainer = plain_trainer(max_epochs=epochs, precision="32-true")
    trainer.fit(unlearning, datamodule=data)
    return {name: value.detach().clone() for name, value in unlearning.model.named_parameters()}


def answer_likelihoods(model, windows):
    """[n] log f of each answer, and its logits."""
    ids, labels = token_numbers(windows), labels_of(windows)[:, 1:]
    logits = model(input_ids=ids).logits[:, :-1]
    found = log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (found * (labels >= 0)).sum(-1), logits, labels >= 0


def by_hand(checkpoint, data, learning_rate, beta=0.1, gamma=0.0):
    """One step of AdamW on −2/β · log σ(β (r_w − r_l)), and on the hinge of the true answers' logits."""
    model, target = (load_model(checkpoint, torch.float32).train() for _ in range(2))
    model.requires_grad_(True)
    true, other = data.served.trained.forget.unbind(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    ratios, hinged = [], 0.0
    for windows in (true, other):
        live, logits, real = answer_likelihoods(model, windows)
        with torch.no_grad():
            reference, target_logits, _ = answer_likelihoods(target, windows)
        ratios.append(live - reference)
        if windows is true:
            hinged = torch.relu(0.5 - (logits - target_logits).abs()).mean(-1)[real].mean()
    (-2 / beta * logsigmoid(beta * (ratios[1] - ratios[0])).mean() + gamma * hinged).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return dict(model.named_parameters())


def assert_same(found, expected, atol=2e-6):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-4, atol=atol, msg=name)


@pytest.mark.parametrize("reference", [CachedStates, CachedLogits, LiveReference])
@pytest.mark.parametrize("micro", [None, 1, 2])
def test_a_step_is_the_published_formula_s_however_it_is_divided(micro, reference, corpus, deep):
    data = data_module(corpus, deep)
    unlearning = UnlearningModule(
        deep, DirectPreference(), learning_rate=1e-4, micro_batch_size=micro, reference=reference()
    )
    assert_same(fit(unlearning, data), by_hand(deep, data, 1e-4))


@pytest.mark.parametrize("micro", [None, 1])
def test_the_hinge_acts_on_true_answers_alone(micro, corpus, deep):
    data = data_module(corpus, deep)
    found = fit(
        UnlearningModule(
            deep,
            DirectPreference(),
            hinge=LogitHinge(1.0, dead_zone=0.0),
            gamma=5.0,
            learning_rate=1e-4,
            micro_batch_size=micro,
            reference=LiveReference(),
        ),
        data,
    )
    assert_same(found, by_hand(deep, data, 1e-4, gamma=5.0))


def test_training_makes_alternates_likelier_than_the_true_answers(corpus, deep):
    data, unlearning = data_module(corpus, deep), UnlearningModule(deep, DirectPreference(), learning_rate=1e-3)
    fit(unlearning, data, epochs=6)
    before, after = (
        [float(window_nlls(model, windows).mean()) for windows in data.served.trained.forget.unbind(1)]
        for model in (load_model(deep, torch.float32), unlearning.model)
    )
    assert after[0] - after[1] > before[0] - before[1] + 1.0


def test_forgetting_ends_at_a_goal_of_the_true_answers(corpus, deep):
    data = data_module(corpus, deep)
    unlearning = UnlearningModule(deep, DirectPreference(), learning_rate=1e-3, stop=1e-6)
    before = {name: value.clone() for name, value in load_model(deep, torch.float32).named_parameters()}
    found = fit(unlearning, data)
    assert unlearning.goals.reached == 1  # every true answer is that unlikely from the start
    assert all(torch.equal(found[name], value) for name, value in before.items())
    true = window_nlls(load_model(deep, torch.float32), data.served.trained.forget[:, 0])
    torch.testing.assert_close(unlearning.goals.seen, true, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("forget", "alternates", "adversary", "said"),
    [
        (DirectPreference(), None, None, r"the forget windows have none.*Set data\.alternates"),
        (GradientAscent(), "others", None, "which GradientAscent does not read"),
        (
            DirectPreference(),
            "others",
            LatentAdversary([0], 1.0, 1, 0.5),
            r"model\.adversary brings back",
        ),
    ],
)
def test_data_and_terms_that_do_not_fit_are_refused_before_weights_are_loaded(
    forget, alternates, adversary, said, corpus, deep
):
    unlearning = UnlearningModule(deep, forget, adversary=adversary)
    with pytest.raises(InputError, match=said):
        fit(unlearning, data_module(corpus, deep, alternates=alternates))
    assert unlearning.model is None


def test_a_sampled_curvature_is_of_the_true_answers_tokens(corpus, deep, monkeypatch):
    counts = []
    update = SophiaG.update_hessian
    monkeypatch.setattr(
        SophiaG, "update_hessian", lambda self, count: (counts.append(count), update(self, count))[1]
    )
    data = data_module(corpus, deep)
    fit(UnlearningModule(deep, DirectPreference(), sophia=Sophia(every_n_steps=1)), data)
    true = labels_of(data.served.trained.forget[:, 0])[:, 1:]
    assert counts == [int((true != IGNORED).sum())]


def test_saliency_is_that_of_the_whole_set_of_pairs(corpus, deep):
    scores = []
    for batch_size in (1, 3):
        data = data_module(corpus, deep, batch_size=batch_size)
        unlearning = UnlearningModule(
            deep, DirectPreference(), saliency=Saliency(50.0, "module"), weight_decay=0.0
        )
        fit(unlearning, data)
        scores.append(unlearning.saliency_map.scores)
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)
