import hashlib
import os

from quail_lightning.storage.file_digests import file_digests


def test_digests_go_by_the_name_below_the_folder_and_a_changed_file_is_read_again(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, content in (("b", b"2"), ("deep/a", b"1")):
        (tmp_path / name).write_bytes(content)
    expected = {"b": hashlib.sha256(b"2").hexdigest(), "deep/a": hashlib.sha256(b"1").hexdigest()}
    assert file_digests(tmp_path, [tmp_path / "deep/a", tmp_path / "b"]) == expected
    (tmp_path / "b").write_bytes(b"3")
    os.utime(tmp_path / "b", ns=(1, 1))  # another time, however coarse the clock
    assert file_digests(tmp_path, [tmp_path / "b"]) == {"b": hashlib.sha256(b"3").hexdigest()}
