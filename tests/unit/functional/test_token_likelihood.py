"""Token log-likelihoods against a float64 softmax written out."""

import math

import numpy as np
import torch

from quail_lightning.functional.token_likelihood import IGNORED, counted, mean_over_real, token_log_likelihood


def test_log_likelihood_equals_a_float64_softmax_written_out():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(2, 4, 6)) * 3, rng.integers(0, 6, size=(2, 4))
    expected = np.zeros((2, 4))
    for b in range(2):
        for t in range(4):
            total = sum(math.exp(value) for value in logits[b, t])
            expected[b, t] = logits[b, t, labels[b, t]] - math.log(total)
    found = token_log_likelihood(torch.from_numpy(logits), torch.from_numpy(labels))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-14)


def test_ignored_labels_count_for_nothing():
    logits, labels = torch.zeros(1, 3, 4), torch.tensor([[0, IGNORED, 1]])
    values = token_log_likelihood(logits, labels)
    assert values[0, 1] == 0
    assert math.isclose(mean_over_real(values, labels).item(), -math.log(4), rel_tol=1e-6)


def test_what_counts_of_tokens_windows_and_positions():
    labels = torch.tensor([[7, IGNORED, 5], [IGNORED, 3, IGNORED], [IGNORED] * 3, [1, 2, 3]])
    assert counted(labels).int().tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert counted(labels, "windows").int().tolist() == [1, 1, 0, 1]
    assert counted(labels, "positions").int().tolist() == [[1, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert mean_over_real(torch.tensor([1.0, 2.0, 4.0, 6.0]), labels, "windows") == 3


def test_mean_over_no_real_token_is_zero_and_not_nan():
    labels = torch.full((1, 2), IGNORED)
    assert mean_over_real(torch.ones(1, 2), labels) == 0
