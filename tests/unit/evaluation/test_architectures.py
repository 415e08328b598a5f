"""The evaluation's own passes against the library's, for every architecture."""

import random

import pytest
import torch
from architectures import CONFIGS, tiny_model

from quail_lightning.inference.encoding import encode
from quail_lightning.inference.generation import generate
from quail_lightning.inference.likelihood import token_log_likelihoods
from quail_lightning.models.activations import activations, decoder_layers
from quail_lightning.models.tiny import train_tokenizer

pytestmark = pytest.mark.slow

NEW = 20  # tokens; with the prompts well beyond the sliding window of 8


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Of unlike lengths; the first four open alike, which is read once for all of them."""
    words = [f"{a}{b}" for a in ("lo", "ma", "ni", "pe", "qua") for b in ("ba", "de", "gi", "fo", "xu")]
    drawn = [" ".join(random.Random(seed).choices(words, k=4 + 3 * seed)) for seed in range(5)]
    return [f"nide maba lofo niba {text}" for text in drawn[:4]] + [drawn[4]]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer(texts, 300)


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


def test_completions_in_a_batch_are_the_library_s_of_each_prompt_alone(model, tokenizer, texts):
    expected = []
    for ids in encode(tokenizer, texts):
        made = model.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False, use_cache=False)
        expected.append(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True))
    assert len(set(expected)) > 1
    assert generate(model, tokenizer, texts, NEW, batch_size=5) == expected
    assert generate(model, tokenizer, texts[:4], NEW, batch_size=4) == expected[:4]  # from a shared prefix


def test_likelihoods_in_a_batch_are_the_model_s_own(model, tokenizer, texts):
    found = token_log_likelihoods(model, tokenizer, texts, batch_size=5)
    for ids, values in zip(encode(tokenizer, texts), found, strict=True):
        with torch.no_grad():
            own = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].log_softmax(-1)
        expected = own.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


def test_states_and_layers_are_found(model):
    ids = torch.arange(24).reshape(2, 12) + 3
    assert len(decoder_layers(model)) == 2
    with torch.no_grad():
        own = model(ids, output_hidden_states=True, use_cache=False).hidden_states
        found = activations(model, ids, layers=(0,))
    torch.testing.assert_close(found.layers[0], own[1])
    torch.testing.assert_close(found.final, own[-1])
