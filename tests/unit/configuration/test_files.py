"""Where configs are found."""

import pytest

from quail_lightning.configuration.files import find_config, shipped_folder, shipped_names
from quail_lightning.errors import InputError


def test_shipped_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("news.yaml").read_text().startswith("# QUAIL on MUSE NEWS")
    assert find_config("method/ga_gdr.yaml").is_file()


def test_a_file_where_the_user_stands_comes_before_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "news.yaml").write_text("mine: 1")
    assert find_config("news.yaml").read_text() == "mine: 1"


def test_unknown_config_is_refused_with_the_nearest_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as raised:
        find_config("newz.yaml")
    assert "news.yaml" in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_every_precision_has_a_file():
    assert {"quantizer/bf16.yaml", "quantizer/nf4.yaml", "quantizer/fp4.yaml"} <= set(shipped_names("quantizer"))


def test_a_file_that_stands_before_a_shipped_one_is_named_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs/quantizer/nf4.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("class_path: quail_lightning.quantization.Unquantized\n")
    (tmp_path / "mine.yaml").write_text("mine: 1")
    for name in ("quantizer/nf4.yaml", "quantizer/nf4.yaml", "mine.yaml", "news.yaml", str(own)):
        find_config(name)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "using configs/quantizer/nf4.yaml in the current folder instead of the shipped config of that name"
    ]


def test_the_shipped_folder_itself_is_not_announced(monkeypatch, capsys):
    monkeypatch.chdir(shipped_folder().parent)
    find_config("news.yaml")
    assert capsys.readouterr().err == ""
