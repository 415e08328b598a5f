"""The gradient over a whole set, in batches, against that of the mean loss over it in one piece."""

import pytest
import torch

from quail_lightning.data.batch import TokenBatch
from quail_lightning.functional.masking import labels_of, masked, token_numbers
from quail_lightning.models.activations import activations
from quail_lightning.objectives import GradientAscent, Misdirection, SimplePreference
from quail_lightning.reference import FrozenOutputs
from quail_lightning.unlearning.losses import term_losses
from quail_lightning.unlearning.whole_sets import backward_over


@pytest.mark.parametrize("term", [GradientAscent(), SimplePreference(), Misdirection(0)])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_unevenly_masked_windows_weigh_what_the_loss_is_a_mean_over(term, batch_size, tiny_llama):
    generator = torch.Generator().manual_seed(4)
    learned = torch.zeros(5, 9, dtype=torch.bool)
    for row, (start, end) in enumerate([(3, 4), (1, 9), (5, 9), (2, 4), (8, 9)]):
        learned[row, start:end] = True
    windows, model = masked(torch.randint(64, (5, 9), generator=generator), learned), tiny_llama()

    def loss(batch):
        return term_losses(model, {"x": term}, batch, FrozenOutputs(), activations, torch.float32)["x"]

    loss(TokenBatch(token_numbers(windows), labels_of(windows), torch.arange(5))).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    backward_over(model, windows, loss, term.needs.mean_over, torch.device("cpu"), batch_size)
    for name, parameter in model.named_parameters():
        if expected[name] is not None:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)
