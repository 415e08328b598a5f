"""Private text is for its owner alone, whatever the umask; figures and exported models follow the umask."""

import os
import stat

import pytest

from quail_lightning.storage.durable import replace_text, write_json
from quail_lightning.storage.privacy import private_folder, share_by_umask


def mode(path):
    return oct(stat.S_IMODE(path.stat().st_mode))


@pytest.fixture(params=[0o000, 0o022, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_private_folder_and_its_files_are_the_owners_and_what_lies_above_is_not(tmp_path, umask):
    root = tmp_path / "checkpoints/reference-cache"
    folder = private_folder(root / "a/b", root)
    assert [mode(path) for path in (root, root / "a", folder)] == ["0o700"] * 3
    assert mode(tmp_path / "checkpoints") == oct(0o777 & ~umask), "models of others lie there too"
    replace_text(folder / "text", "secret", private=True)
    assert mode(folder / "text") == "0o600"


def test_a_root_that_was_there_stays_as_it_is_and_what_lay_below_it_becomes_private(tmp_path):
    root = tmp_path / "shared"
    (root / "cache").mkdir(parents=True)
    root.chmod(0o755)
    (root / "cache").chmod(0o755)
    private_folder(root / "cache", root)
    assert (mode(root), mode(root / "cache")) == ("0o755", "0o700")


def test_a_file_that_was_open_to_others_is_private_once_it_is_written_again(tmp_path):
    path = tmp_path / "log.json"
    path.write_text("old")
    path.chmod(0o644)
    write_json(path, ["new"], private=True)
    assert mode(path) == "0o600"


def test_what_is_not_private_follows_the_umask(tmp_path, umask):
    replace_text(tmp_path / "results.json", "{}")
    assert mode(tmp_path / "results.json") == oct(0o666 & ~umask)


def test_an_exported_folder_is_given_the_umasks_permissions_to_its_last_file(tmp_path):
    (tmp_path / "model/below").mkdir(parents=True)
    for name in ("model.safetensors", "below/part.safetensors"):
        (tmp_path / "model" / name).write_text("x")
        (tmp_path / "model" / name).chmod(0o600)
    (tmp_path / "model").chmod(0o700)
    share_by_umask(tmp_path / "model", 0o750)
    assert mode(tmp_path / "model") == mode(tmp_path / "model/below") == "0o750"
    assert {mode(path) for path in (tmp_path / "model").rglob("*.safetensors")} == {"0o640"}
