"""What a program of one's own imports."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import quail_lightning
from quail_lightning.models.checkpoint import save_model
from quail_lightning.models.tiny import tiny_llama, train_tokenizer

EXAMPLE = Path(__file__).parents[2] / "docs/examples/two_text_files.py"
HEAVY = ("torch", "transformers", "lightning", "numpy", "datasets")


def test_every_name_is_there_and_comes_from_where_it_is_defined() -> None:
    for name in quail_lightning.__all__:
        assert getattr(quail_lightning, name) is not None
    assert quail_lightning.__version__ == version("quail-lightning")
    assert quail_lightning.UnlearningModule.__module__ == "quail_lightning.unlearning.module"
    with pytest.raises(AttributeError, match="no attribute 'Unlearn'"):
        quail_lightning.Unlearn  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    look = f"import sys, quail_lightning; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_example_goes_from_two_text_files_to_a_verdict(tmp_path: Path) -> None:
    texts = {
        "forget": "it was a dark and stormy night by the sea, and nobody slept. " * 12,
        "retain": "there was once a king who lived in a house of glass, far from here. " * 12,
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    tokenizer = train_tokenizer(list(texts.values()), 300)
    model = tiny_llama(vocab_size=len(tokenizer), width=128, positions=256)
    save_model(model, tokenizer, tmp_path / "target", {})
    options = ["target", "forget.txt", "retain.txt", "--epochs=1", "--max_len=64", "--out=out"]
    ran = subprocess.run(
        [sys.executable, EXAMPLE, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "out/nf4 nf4:" in ran.stdout
    assert (tmp_path / "out/nf4/config.json").is_file()
