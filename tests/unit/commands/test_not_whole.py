"""A checkpoint that is not whole ends every verb with one line and status 2, before anything is written."""

import json
import os
import re
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from quail_lightning.cli import main

OWN = "--config own.yaml --data.forget my.txt --data.retain other.txt --data.max_len 16 --trainer.accelerator cpu"
EVALUATE = "--benchmark muse-news --corpus corpus --device cpu"
VERBS = {
    "fit": f"fit {OWN} --model.target broken",
    "fit: start": f"fit {OWN} --model.target model --model.start broken",
    "fit: retrained": f"fit {OWN} --model.target model --evaluation.retrained broken",
    "validate": f"validate {OWN} --model.target broken",
    "test": f"test {OWN} --model.target model --model.start broken",
    "test: retrained": f"test {OWN} --model.target model --evaluation.retrained broken",
    "evaluate": f"evaluate model broken {EVALUATE}",
    "evaluate: retrained": f"evaluate model --retrained broken {EVALUATE}",
    "alternates": "alternates broken --data.forget my.jsonl --out out.jsonl",
    "quantize": "quantize broken --to nf4 --out out",
    "finetune": "finetune --data OwnTextDataModule --data.forget my.txt --data.retain other.txt --data.max_len 16 "
    "--recipe.base broken --accelerator cpu --out out",
    "analyze": "analyze --reference model --model broken --out out",
    "analyze: reference": "analyze --reference broken --model model --out out",
}


@pytest.fixture
def place(checkpoint, corpus_folder, tmp_path, monkeypatch):
    """Where the user stands: a whole model, and a copy to be spoiled."""
    for name in ("model", "broken"):
        shutil.copytree(checkpoint, tmp_path / name)
    (tmp_path / "corpus").symlink_to(corpus_folder)
    (tmp_path / "my.txt").write_text("ash birch cedar elm fir hazel larch maple oak pine rowan willow yew " * 9)
    (tmp_path / "other.txt").write_text("yew willow rowan pine oak maple larch hazel fir elm cedar birch ash " * 9)
    (tmp_path / "my.jsonl").write_text('{"question": "Which?", "answer": "An ash."}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quail"])
    return tmp_path


def prefix(folder):
    (folder / "provenance.json").unlink()
    stored = load_file(folder / "model.safetensors")
    renamed = {f"_orig_mod.{name}": tensor for name, tensor in stored.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def flip(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def pipe(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def adapter(folder):
    (folder / "adapter_config.json").write_text("{}")
    (folder / "model.safetensors").unlink()


def huge(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 10**12}))


BROKEN = {
    prefix: r"'broken' is not whole: .* Names hold the prefix '_orig_mod\.'",
    flip: r"model\.safetensors in broken is not what was saved there",
    pipe: r"broken/model\.safetensors is no regular file but a pipe",
    adapter: r"broken is an adapter",
    huge: r"embed_tokens\.weight \(file .*, config \[1000000000000, 64\]\)",
}


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("verb", VERBS)
def test_one_line_and_nothing_written(verb, spoil, place, capsys):
    spoil(place / "broken")
    before = sorted(place.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(VERBS[verb].split())
    told = capsys.readouterr().err
    (fact,) = re.findall(r"^error: .*", told, re.MULTILINE)
    assert re.search(BROKEN[spoil], fact), fact
    assert ended.value.code == 2
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("verb", ["fit", "fit: start", "test", "evaluate", "quantize", "finetune", "analyze"])
def test_a_weight_that_is_no_number_ends_every_verb(verb, place, capsys):
    (place / "broken/provenance.json").unlink()
    stored = load_file(place / "broken/model.safetensors")
    stored["model.norm.weight"][1] = torch.nan
    save_file(stored, place / "broken/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit) as ended:
        main(VERBS[verb].replace("evaluate model broken", "evaluate broken").split())
    assert re.search(r"error: .*model\.norm\.weight .*broken", capsys.readouterr().err)
    assert ended.value.code == 2
