from __future__ import annotations

from typing import Any

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.functional.head import Head
from quail_lightning.functional.masking import masked, side_by_side
from quail_lightning.inference import likelihood
from quail_lightning.inference.likelihood import (
    head_log_likelihoods,
    label_log_probabilities,
    token_log_likelihoods,
    window_nlls,
)

TEXTS = ["ab", "", "The cat sat on the mat.", "longer than the others, by a good number of characters", "x"]


def by_hand(model: Any, ids: list[int]) -> torch.Tensor:
    """One unpadded row, softmax in double precision."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return torch.stack([logits[i].softmax(0)[ids[i + 1]].log() for i in range(len(ids) - 1)])


def test_every_token_after_bos_is_scored_as_if_its_text_stood_alone(model: Any, tokenizer: Any) -> None:
    values = token_log_likelihoods(model, tokenizer, TEXTS, batch_size=2)
    assert model.training
    model.eval()
    assert [len(row) for row in values] == [len(text) for text in TEXTS]
    for text, row in zip(TEXTS, values, strict=True):
        if text:
            ids = [0, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            torch.testing.assert_close(row.double(), by_hand(model, ids), atol=1e-4, rtol=1e-4)


def test_texts_are_cut_at_the_positions_and_at_max_length(model: Any, tokenizer: Any) -> None:
    (whole,) = token_log_likelihoods(model, tokenizer, ["y" * 1000], batch_size=1)
    (cut,) = token_log_likelihoods(model, tokenizer, ["y" * 1000], batch_size=1, max_length=11)
    assert len(whole) == 255
    assert len(cut) == 10
    torch.testing.assert_close(cut, whole[:10], atol=1e-4, rtol=1e-4)


def test_window_nll_is_the_mean_over_all_tokens_but_the_first(model: Any) -> None:
    windows = torch.randint(2, 258, (5, 20), generator=torch.Generator().manual_seed(1))
    windows[:, 0] = 0
    nlls = window_nlls(model, windows, batch_size=2)
    model.eval()
    expected = torch.stack([-by_hand(model, row.tolist()).mean() for row in windows])
    torch.testing.assert_close(nlls, expected, atol=1e-5, rtol=1e-5)


def test_window_nll_is_the_mean_over_learned_tokens_alone(model: Any) -> None:
    windows = torch.randint(2, 258, (4, 20), generator=torch.Generator().manual_seed(1))
    learned = torch.zeros(4, 20, dtype=torch.bool)
    for row, (start, end) in enumerate([(5, 9), (0, 20), (1, 2), (12, 20)]):
        learned[row, start:end] = True
    nlls = window_nlls(model, masked(windows, learned), batch_size=3)
    model.eval()
    expected = torch.stack(
        [-by_hand(model, row.tolist())[kept[1:]].mean() for row, kept in zip(windows, learned, strict=True)]
    )
    torch.testing.assert_close(nlls, expected, atol=1e-5, rtol=1e-5)
    assert (nlls - window_nlls(model, windows, batch_size=3)).abs()[[0, 2, 3]].min() > 1e-3


def test_padding_changes_no_window_s_nll(model: Any) -> None:
    windows = torch.randint(2, 258, (3, 12), generator=torch.Generator().manual_seed(2))
    padded = side_by_side([windows, torch.zeros(1, 20, dtype=torch.int64)])[:3]
    torch.testing.assert_close(window_nlls(model, padded, 2), window_nlls(model, windows, 2), atol=1e-6, rtol=1e-6)


def test_chunks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "CHUNK", 3)
    logits = torch.tensor([[0.0, 0.0]] * 4 + [[0.0, 30.0]] * 3)
    values = label_log_probabilities(logits, torch.tensor([0, 1, 0, 1, 1, 1, 0]))
    half = torch.tensor(0.5).log().item()
    torch.testing.assert_close(values, torch.tensor([half] * 4 + [0.0, 0.0, -30.0]))


def test_bfloat16_logits_are_normalized_in_float32() -> None:
    logits = torch.zeros(1, 1000, dtype=torch.bfloat16)
    value = label_log_probabilities(logits, torch.tensor([3]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(-6.907755, abs=1e-5)  # ln 1000; bfloat16 would give 6.90625 at best


@pytest.mark.parametrize(
    ("shape", "message"), [((2, 257), "256 positions"), ((2, 1), "at least 2"), ((8,), "shape")]
)
def test_windows_that_cannot_be_evaluated_are_refused(model: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        window_nlls(model, torch.zeros(shape, dtype=torch.long), batch_size=1)


@pytest.mark.parametrize("words", [3, 7, 10, 50])
def test_a_head_taken_a_few_words_at_a_time_gives_the_whole_softmax(words: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(6, 4, generator=generator), torch.randn(10, 4, generator=generator)
    bias, labels = torch.randn(10, generator=generator), torch.tensor([0, 9, 3, 2, 6, 7])
    values = head_log_likelihoods(hidden, labels, Head(weight, bias, softcap=2.0), words)
    logits = 2 * ((hidden.double() @ weight.double().T + bias.double()) / 2).tanh()
    expected = logits.log_softmax(-1)[torch.arange(6), labels]
    torch.testing.assert_close(values.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_model_whose_logits_are_not_its_heads_product_is_asked_for_them(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = token_log_likelihoods(model, tokenizer, TEXTS)
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: 0.5 * (hidden @ model.lm_head.weight.T))
    halved = token_log_likelihoods(model, tokenizer, TEXTS, batch_size=2)
    model.eval()
    ids = [0, *tokenizer(TEXTS[2], add_special_tokens=False)["input_ids"]]
    torch.testing.assert_close(halved[2].double(), by_hand(model, ids), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(halved[2], plain[2], atol=1e-2)


def test_z_scores_stand_beside_the_same_likelihoods_in_any_batch(model: Any, tokenizer: Any) -> None:
    texts = ["a text", "a somewhat longer text", "", "b"]
    plain = token_log_likelihoods(model, tokenizer, texts, batch_size=2)
    for batch_size in (1, 4):
        found = token_log_likelihoods(model, tokenizer, texts, batch_size=batch_size, standardize=True)
        for values, alone, text in zip(found, plain, texts, strict=True):
            assert values.shape == (len(text), 2)
            assert torch.allclose(values[:, 0], alone, atol=1e-5)
    ids = torch.tensor([tokenizer(texts[0], add_special_tokens=False)["input_ids"]])
    ids = torch.cat([torch.tensor([[0]]), ids], dim=1)
    with torch.no_grad():
        log_p = model.eval()(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    mean = (log_p.exp() * log_p).sum(-1)
    deviation = ((log_p.exp() * (log_p - mean[:, None]) ** 2).sum(-1)).sqrt()
    expected = (log_p.gather(1, ids[0, 1:, None])[:, 0] - mean) / deviation
    assert torch.allclose(found[0][:, 1].double(), expected, atol=1e-4)
