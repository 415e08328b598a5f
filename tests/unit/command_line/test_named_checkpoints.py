import pytest
from jsonargparse import Namespace
from small_gguf import values, write_llama

from quail_lightning.command_line.named_checkpoints import NamedCheckpoints
from quail_lightning.errors import InputError

pytest.importorskip("gguf")


@pytest.fixture
def section(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_llama(tmp_path / "target.gguf")
    write_llama(tmp_path / "retrained.gguf", weights=values(1))
    return Namespace(
        model=Namespace(target="target.gguf", start="some/name", retrained="retrained.gguf"),
        evaluation=Namespace(retrained="retrained.gguf"),
        best=Namespace(retrained="retrained.gguf"),
        data=Namespace(class_path="Data", init_args=Namespace(tokenizer="target.gguf")),
    )


def test_inside_every_name_is_a_folder_that_conversion_makes(section, tmp_path):
    checkpoints = NamedCheckpoints(section)
    with checkpoints.as_folders():
        inside = section.clone()
    assert section.model.target == section.data.init_args.tokenizer == "target.gguf"
    assert inside.model.target == inside.data.init_args.tokenizer
    assert inside.model.target.startswith("checkpoints/converted/target-")
    assert inside.model.start == "some/name"
    assert inside.model.retrained == inside.evaluation.retrained == inside.best.retrained
    assert not (tmp_path / "checkpoints").exists()
    checkpoints.convert()
    for folder in (inside.model.target, inside.evaluation.retrained):
        assert (tmp_path / folder / "model.safetensors").is_file()


def test_a_damaged_file_is_refused_at_once_and_a_missing_section_is_none(section, tmp_path):
    (tmp_path / "retrained.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"retrained.gguf is damaged"):
        NamedCheckpoints(section)
    with NamedCheckpoints(Namespace(model=Namespace(target=None))).as_folders():
        pass
