"""z-scores of tokens against the definition in float64, whatever the pieces of the vocabulary."""

import pytest
import torch

from quail_lightning.functional.token_moments import LEAST_VARIANCE, standardized


def by_definition(logits, labels):
    log_p = logits.double().log_softmax(-1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    variance = (p * (log_p - mean[:, None]) ** 2).sum(-1)
    picked = log_p.gather(1, labels[:, None])[:, 0]
    return picked, (picked - mean) / variance.clamp(min=LEAST_VARIANCE).sqrt()


@pytest.mark.parametrize("words", [1, 7, 64, 100])
@pytest.mark.parametrize("scale", [0.05, 1.0, 12.0])
def test_moments_are_those_of_the_definition_in_any_pieces(words, scale):
    generator = torch.Generator().manual_seed(4)
    logits = scale * torch.randn(9, 64, generator=generator) + 30
    labels = torch.randint(0, 64, (9,), generator=generator)
    expected = by_definition(logits, labels)
    likelihood, score = standardized(logits.split(words, dim=1), labels)
    assert torch.allclose(likelihood.double(), expected[0], atol=2e-5)
    assert torch.allclose(score.double(), expected[1], rtol=2e-4, atol=2e-4)
    exact = standardized(logits.double().split(words, dim=1), labels)
    assert torch.allclose(exact[0], expected[0], rtol=1e-12, atol=1e-12)
    assert torch.allclose(exact[1], expected[1], rtol=1e-9, atol=1e-9)


def test_by_hand():
    # p = ½, ¼, ¼: μ = −½ log 2 − ½ log 4 = −1.5 log 2, σ = ½ log 2
    logits = torch.tensor([[0.5, 0.25, 0.25]]).double().log()
    likelihood, score = standardized(logits.split(2, dim=1), torch.tensor([0]))
    assert likelihood.item() == pytest.approx(-0.6931471805599453)
    assert score.item() == pytest.approx(1.0)
    assert standardized([logits], torch.tensor([1]))[1].item() == pytest.approx(-1.0)


def test_a_certain_word_and_one_that_cannot_be_give_finite_scores():
    logits = torch.tensor([[100.0, 0.0, -float("inf")], [0.0, 0.0, 0.0]])
    for pieces in ([logits], logits.split(1, dim=1), logits.flip(1).split(1, dim=1)):
        likelihood, score = standardized(pieces, torch.tensor([1, 1]))
        assert torch.isfinite(score).all()
        assert likelihood.isfinite().all()
        assert score[1] == 0  # all words are alike
