"""Two writers at once, and whatever may stand where a folder is to go."""

from pathlib import Path
from threading import Thread

import pytest

from quail_lightning.storage.durable import partial_name, publish_or_keep, replace_text


def test_writers_of_one_file_at_once_leave_one_of_their_contents_whole(tmp_path):
    path, texts = tmp_path / "results.json", [str(n) * 20_000 for n in range(4)]

    def write(text):
        for _ in range(20):
            replace_text(path, text)

    threads = [Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path], "no partial file is left"


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "results.json"
    replace_text(path, "whole")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "\ud800")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def folder(path, text):
    path.mkdir()
    (path / "text").write_text(text)
    return path


def is_good(path):
    return (path / "text").is_file() and (path / "text").read_text() == "good"


def nothing(path: Path) -> None:
    pass


def an_empty_folder(path):
    path.mkdir()


def a_file(path):
    path.write_text("x")


def a_link(path):
    path.symlink_to(folder(path.with_name("elsewhere"), "others"))


def a_damaged_one(path):
    folder(path, "bad")


@pytest.mark.parametrize("in_the_way", [nothing, an_empty_folder, a_file, a_link, a_damaged_one])
def test_a_folder_takes_the_place_of_whatever_is_not_good(tmp_path, in_the_way):
    in_the_way(tmp_path / "part")
    publish_or_keep(folder(partial_name(tmp_path / "part"), "good"), tmp_path / "part", is_good)
    assert is_good(tmp_path / "part")
    assert not (tmp_path / "part").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} <= {"part", "elsewhere"}
    if in_the_way is a_link:
        assert (tmp_path / "elsewhere/text").read_text() == "others"


def test_a_good_one_of_another_process_stays(tmp_path):
    (folder(tmp_path / "part", "good") / "mark").write_text("first")
    publish_or_keep(folder(partial_name(tmp_path / "part"), "good"), tmp_path / "part", is_good)
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
    assert (tmp_path / "part/mark").is_file()
