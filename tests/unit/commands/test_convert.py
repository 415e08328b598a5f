import pytest
import torch
from small_gguf import write_llama

from quail_lightning.cli import main
from quail_lightning.commands.alternates import alternates
from quail_lightning.commands.analyze import analyze
from quail_lightning.commands.convert import convert
from quail_lightning.commands.quantize import quantize
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model, read_provenance

pytest.importorskip("gguf")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_llama(tmp_path / "a.gguf", lambda name: "Q4_0")
    return tmp_path


def test_the_verb_converts_once_and_says_what_it_made(here, capsys):
    main(["convert", "a.gguf", "--out", "model"])
    said = capsys.readouterr().out
    assert "converted: model (exactly, in float32)" in said
    assert "on Q4_0's (4 bits, blocks of 32)" in said
    assert load_model("model", torch.float32).config.num_hidden_layers == 2
    main(["convert", "a.gguf", "--out", "model"])
    main(["convert", "a.gguf", "--out", "narrow", "--dtype", "bfloat16"])
    assert "converted: narrow (rounded to bfloat16)" in capsys.readouterr().out
    assert convert("a.gguf").parent.name == "converted"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.gguf"], "none.gguf cannot be read"),
        (["checkpoints"], "that is no GGUF file"),
        (["a.gguf", "--dtype", "bfloat16"], "needs a folder of its own"),
        (["a.gguf", "--out", "a.gguf/model"], "lies below a file"),
        (["a.gguf", "--dtype", "int8"], "int8"),
    ],
)
def test_bad_input_ends_with_its_message_and_status_2(here, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(["convert", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["a.gguf"]


def test_a_folder_with_something_else_is_not_touched(here):
    (here / "model").mkdir()
    (here / "model" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="model holds something else than this conversion"):
        convert("a.gguf", "model")
    assert (here / "model" / "notes.txt").read_text() == "mine"


def test_verbs_take_the_file_where_they_take_a_checkpoint(here):
    folder = quantize("a.gguf", "uniform4-channel", "deployed")
    made = read_provenance(folder)
    assert made["converted"]["file"] == "a.gguf"
    assert made["quantized"]["of"].startswith("checkpoints/converted/a-")
    assert "on Q4_0's (4 bits, blocks of 32)" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match="deployed holds something else"):
        convert("a.gguf", folder)
    found = analyze("a.gguf", "a.gguf", formats=[])
    assert found.reference == made["quantized"]["of"]
    (here / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"broken.gguf is damaged"):
        analyze("a.gguf", "broken.gguf", formats=[])


def test_a_loader_that_is_given_the_file_itself_says_what_to_do(here):
    with pytest.raises(InputError, match=r"it is a file .*`quail convert a.gguf` makes such a folder"):
        load_model("a.gguf", torch.float32)
    (here / "forget.jsonl").write_text('{"question": "who?", "answer": "nobody"}\n')
    (here / "b.gguf").write_bytes(b"none")
    with pytest.raises(InputError, match="does not begin with GGUF"):
        alternates("b.gguf", here / "forget.jsonl", "out.jsonl")
