"""Two processes evaluate a model that neither of them ever holds in 16 bits, and find what one process finds."""

import json
import sys
from pathlib import Path

import pytest
import torch

from quail_lightning.models.checkpoint import load_model, save_model
from quail_lightning.models.tiny import tiny_llama, train_tokenizer
from quail_lightning.quantization import load_quantizer

sys.path.insert(0, str(Path(__file__).parent))
import evaluated_shards
from two_processes import run_by_two

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Many small layers beside a small vocabulary, whose rows two processes cannot share evenly."""
    folder = tmp_path_factory.mktemp("models") / "target"
    tokenizer = train_tokenizer(["the ash and the oak"], vocab_size=259)
    model = tiny_llama(vocab_size=259, width=64, layers=16, heads=2, positions=128, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)  # a random model's logits are nearly flat otherwise
    save_model(model, tokenizer, folder, {"made_by": "tests"})
    return str(folder)


@pytest.fixture(scope="module")
def told(checkpoint, tmp_path_factory):
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("told")
    run_by_two(evaluated_shards.__file__, [str(folder), checkpoint], folder, timeout=300)
    return [json.loads((folder / f"told{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def rounded(checkpoint):
    """The whole model as it is deployed: the masters, cast."""
    model, masters = load_model(checkpoint, torch.bfloat16), load_model(checkpoint, torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(masters.get_parameter(name) * evaluated_shards.DRIFT)
    return model


def test_figures_are_those_of_the_whole_model_to_the_last_digit(told, rounded, checkpoint):
    tokenizer = evaluated_shards.load_tokenizer(checkpoint)
    assert told[0]["figures"] == told[1]["figures"]
    for name in evaluated_shards.PRECISIONS:
        copy = rounded if name == "bf16" else load_quantizer(name).quantize(rounded)
        expected = evaluated_shards.figures(copy, tokenizer)
        assert expected.keys() >= {"verbmem_forget", "membership_auc", "nll_forget"}
        assert told[0]["figures"][name] == expected, name


def test_no_process_ever_holds_the_whole_model_in_16_bits(told, rounded):
    everything = 2 * sum(parameter.numel() for parameter in rounded.parameters())
    for process in told:
        for name, most in process["bytes"].items():
            # half of it is this process's share
            assert everything / 2 < most < 0.75 * everything, name


def test_the_probe_sees_a_whole_model(rounded):
    everything = 2 * sum(parameter.numel() for parameter in rounded.parameters())
    found = evaluated_shards.most_bytes(
        lambda: evaluated_shards.load_quantizer("bf16").quantize(rounded), load_quantizer("nf4")
    )
    assert found > everything
