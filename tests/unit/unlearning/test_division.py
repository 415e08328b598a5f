"""A step's windows over processes and passes: nothing twice, nothing left out, weighted by real tokens."""

import pytest
import torch

from quail_lightning.data.batch import TokenBatch
from quail_lightning.functional.token_likelihood import IGNORED
from quail_lightning.run.processes import Processes
from quail_lightning.unlearning.division import passes


def batch(windows, length=5):
    ids = torch.arange(windows * length).view(windows, length)
    return TokenBatch(ids, ids.clone(), torch.arange(windows))


def divided(step, count, most):
    return [
        [(part.window.tolist(), share.tokens) for part, share in passes(step, most, Processes(rank, count))]
        for rank in range(count)
    ]


def test_one_process_takes_the_whole_step_at_once():
    assert divided(batch(3), 1, None) == [[([0, 1, 2], 1.0)]]


def test_a_process_without_windows_repeats_the_first_at_no_weight():
    assert divided(batch(1), 2, None) == [[([0], 1.0)], [([0], 0.0)]]


def test_every_process_makes_as_many_passes():
    third = pytest.approx(1 / 3)
    assert divided(batch(3), 2, 1) == [[([0], third), ([1], third)], [([2], third), ([0], 0.0)]]


@pytest.mark.parametrize("windows", [1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("most", [None, 1, 2])
def test_shares_sum_to_one_and_weigh_every_real_token_alike(windows, count, most):
    step = batch(windows)
    step.labels[0, 2:] = IGNORED  # one real token left of four
    parts = [entry for process in divided(step, count, most) for entry in process]
    weighed = sorted(window for rows, share in parts if share for window in rows)
    assert weighed == list(range(windows))
    real = [1] + [4] * (windows - 1)
    for rows, share in parts:
        assert share in (0.0, pytest.approx(sum(real[row] for row in rows) / sum(real)))
    assert sum(share for _, share in parts) == pytest.approx(1)
    assert len({len(process) for process in divided(step, count, most)}) == 1


def test_each_unit_has_its_own_share_under_a_mask():
    step = batch(4)
    step.labels[0, :4] = step.labels[1, 3:] = step.labels[2] = IGNORED  # 1, 2, 0 and 4 of 4 predicted tokens
    shares = [share for _, share in passes(step, 2, Processes())]
    assert [share.tokens for share in shares] == pytest.approx([3 / 7, 4 / 7])
    assert [share.windows for share in shares] == pytest.approx([2 / 3, 1 / 3])
    # hidden states: the last; the first three; none; all five
    assert [share.positions for share in shares] == pytest.approx([4 / 9, 5 / 9])


def test_a_step_of_padding_has_shares_that_are_numbers():
    step = batch(2)
    step.labels.fill_(IGNORED)
    assert [share for _, share in passes(step, 1, Processes())] == [(0.0, 0.0, 0.0)] * 2


def test_a_true_answer_and_its_alternate_are_never_cut_apart():
    labels = torch.arange(2 * 3 * 4).view(3, 2, 4)
    labels[0, 0, 2:] = labels[1, 1, 1:] = -100  # alternates weigh nothing
    batch = TokenBatch(torch.arange(2 * 3 * 4).view(3, 2, 4), labels, torch.tensor([4, 0, 2]))
    found = [part for rank in range(2) for part in passes(batch, 1, Processes(rank, 2))]
    kept = [(part, share) for part, share in found if share.windows]
    assert [part.window.tolist() for part, _ in kept] == [[4], [0], [2]]
    assert all(part.input_ids.shape == (1, 2, 4) for part, _ in kept)
    assert [share.tokens for _, share in kept] == pytest.approx([1 / 7, 3 / 7, 3 / 7])
    rows = kept[0][0].rows()
    assert rows.window.tolist() == [8, 9]
    assert torch.equal(rows.input_ids, batch.input_ids[0])
