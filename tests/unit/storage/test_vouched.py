"""What was edited or damaged is said to be, and never believed."""

import json
import stat

import pytest

from quail_lightning.storage.vouched import read_vouched, write_vouched

CONTENT = {"rows": [{"value": 0.1, "n": 3, "epoch": None}], "note": "é"}


def edited(path):
    path.write_text(path.read_text().replace("0.1", "0.2"))


def truncated(path):
    path.write_bytes(path.read_bytes()[:30])


def other_json(path):
    path.write_text("[1, 2]")


def without_digest(path):
    path.write_text(json.dumps(CONTENT))


def binary(path):
    path.write_bytes(b"\xff\x00")


def a_folder(path):
    path.unlink()
    path.mkdir()


def nested(path):
    path.write_text("[" * 100_000)


@pytest.mark.parametrize("damage", [edited, truncated, other_json, without_digest, binary, a_folder, nested])
def test_damage_is_one_line_and_nothing_is_read(tmp_path, damage, capsys):
    path = tmp_path / "scores.json"
    write_vouched(path, CONTENT)
    assert read_vouched(path, "lost") == CONTENT
    assert capsys.readouterr().err == ""
    damage(path)
    assert read_vouched(path, "what was evaluated is evaluated again") is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(str(tmp_path))
    assert line.endswith("what was evaluated is evaluated again")


def test_a_missing_file_is_no_damage_and_a_written_one_is_private(tmp_path, capsys):
    assert read_vouched(tmp_path / "none.json", "lost") is None
    assert capsys.readouterr().err == ""
    write_vouched(tmp_path / "file.json", CONTENT)
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == 0o600
