"""Why a tokenizer cannot be loaded: each cause has its own message and remedy."""

import json
import shutil
from pathlib import Path

import pytest

from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError

ABSENT = r"holds no tokenizer file.*Copy tokenizer\.json"
DAMAGED = r"tokenizer\.json is (damaged|the pointer).*(again|git lfs pull)"
UNREADABLE = r"cannot be understood"


@pytest.fixture
def folder(checkpoint, tmp_path):
    """The checkpoint without weights."""
    made = tmp_path / "model"
    shutil.copytree(checkpoint, made, ignore=shutil.ignore_patterns("*.safetensors"))
    return made


def strip(folder, **written):
    """Leave the model's config alone, and write files whose names have _ for the dot."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    for name, content in written.items():
        stem, _, suffix = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{stem}.{suffix}").write_text(text)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", DAMAGED),
        ('{"version": "1.0", "trunc', DAMAGED),
        ("[1]", DAMAGED),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", DAMAGED),
        ('{"a": 1}', UNREADABLE),
        ('{"model": {"type": "NoSuch"}, "added_tokens": []}', UNREADABLE),
    ],
)
def test_a_damaged_file_is_named(folder, content, said):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=said):
        load_tokenizer(str(folder))


def test_a_damaged_config_of_the_tokenizer_is_named(folder):
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json is damaged"):
        load_tokenizer(str(folder))


def test_no_file_at_all_says_what_to_copy(folder):
    strip(folder)
    with pytest.raises(InputError, match=ABSENT):
        load_tokenizer(str(folder))
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match=ABSENT):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    ("files", "package"),
    [
        ({"tokenizer_model": "\n"}, "sentencepiece"),
        ({"spiece_model": "\n", "tokenizer_config_json": {"tokenizer_class": "T5Tokenizer"}}, "sentencepiece"),
        ({"tokenizer_tiktoken": "aa 1\n"}, "tiktoken"),
        ({"tekken_json": {"a": 1}}, "mistral-common"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(folder, files, package, monkeypatch):
    monkeypatch.setattr("quail_lightning.data.tokenizer_refusals.find_spec", lambda _: None)
    strip(folder, **files)
    with pytest.raises(InputError, match=rf"not installed here\. pip install {package}.*tokenizer\.json"):
        load_tokenizer(str(folder))


def test_code_of_its_own_is_named_and_not_run(folder):
    mapped = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    strip(folder, tokenizer_config_json={"tokenizer_class": "OwnTokenizer", "auto_map": mapped})
    (folder / "tokenization_own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(
        InputError, match=r"code of the checkpoint's own \(tokenization_own\.OwnTokenizer\).*never"
    ):
        load_tokenizer(str(folder))


def test_a_name_that_is_no_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is no such folder, and the hub does not give it"):
        load_tokenizer("nowhere")
    Path("file").write_text("x")
    with pytest.raises(InputError, match="it is a file"):
        load_tokenizer("file")
