"""A checkpoint's folder brings weights and text; programs and pickles that lie in it are not run."""

import json
import pickle

import pytest
import torch

from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_config, load_model
from quail_lightning.models.tiny import train_tokenizer


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def folder(tmp_path, tiny_llama, canary):
    """A checkpoint with everything beside its weights that could be run."""
    folder = tmp_path / "model"
    tiny_llama().save_pretrained(folder)
    train_tokenizer(["a few words of text"] * 4, 300).save_pretrained(folder)
    program = f"open({str(canary)!r}, 'w')\n"
    for name in ("evil.py", "modeling_llama.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(program)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.ckpt"):
        (folder / name).write_bytes(pickle.dumps(Touch(canary)))
    classes = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    edit(folder / "config.json", auto_map=classes, custom_pipelines={"x": {"impl": "evil.X"}})
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]})
    return folder


def edit(file, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_checkpoint_s_programs_are_not_run(folder, canary) -> None:
    load_config(str(folder))
    tokenizer = load_tokenizer(str(folder))
    model = load_model(str(folder), torch.float32)
    model.generate(torch.tensor([[1, 2]]), max_new_tokens=1)
    assert tokenizer("a few").input_ids
    assert not canary.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "evil", "architectures": ["Evil"]},  # known by its own program alone
        {"attn_implementation": "evil/kernels"},  # compiled code from the hub
        {"experts_implementation": "evil/kernels"},
    ],
    ids=str,
)
def test_a_config_that_needs_a_program_of_its_own_is_refused(change, folder, canary) -> None:
    edit(folder / "config.json", **change)
    with pytest.raises(InputError):
        load_model(str(folder), torch.float32)
    assert not canary.exists()


def test_pickled_weights_are_not_read(folder, canary) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError):
        load_model(str(folder), torch.float32)
    assert not canary.exists()
