"""What the tests of fits share: the folder they stand in, and a target with several layers."""

import pytest
import torch

from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.models.checkpoint import load_model, save_model
from quail_lightning.models.tiny import tiny_llama


@pytest.fixture(autouse=True)
def _work_folder(tmp_path, monkeypatch):
    """The reference cache is kept below the folder where the user stands."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def deep(tmp_path_factory, checkpoint):
    """Three layers; weights large enough for logits that are not nearly flat."""
    tokenizer = load_tokenizer(checkpoint)
    model = tiny_llama(vocab_size=len(tokenizer), width=64, layers=3, heads=4, positions=64, seed=2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    folder = tmp_path_factory.mktemp("models") / "deep"
    save_model(model, tokenizer, folder, {"made_by": "tests"})
    return str(folder)


@pytest.fixture(scope="session")
def bf16(tmp_path_factory, deep):
    """A target that is stored in bfloat16."""
    folder = tmp_path_factory.mktemp("models") / "bf16"
    save_model(load_model(deep, torch.bfloat16), load_tokenizer(deep), folder, {"made_by": "tests"})
    return str(folder)
