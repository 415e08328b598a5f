"""The bytes of a file as text, or a refusal that names the line."""

import codecs

import pytest

from quail_lightning.data.file_text import read_text
from quail_lightning.errors import InputError

TEXT = "one\ntwo é 漢\nthree"


@pytest.mark.parametrize(
    "raw",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
    ],
)
def test_every_marked_encoding_and_line_end_gives_the_same_text(raw, tmp_path):
    (tmp_path / "a").write_bytes(raw)
    assert read_text(tmp_path / "a") == TEXT


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (TEXT.encode("utf-16-le"), "line 1: a NUL byte, so it looks like UTF-16"),
        (TEXT.encode("utf-16-be"), "line 1: a NUL byte, so it looks like UTF-16"),
        (TEXT.encode("utf-32-le"), "line 1: a NUL byte, so it looks like UTF-16"),
        ("漢字\n".encode("utf-16-le") * 9, "line 2: a NUL byte, so it looks like UTF-16"),
        (b"one\ntwo\nthr\0ee and so on and on", "line 3: a NUL byte, so this is binary"),
        (b"one\r\ntwo\rthr\xe9e", r"line 3: not UTF-8 text \(invalid"),
        (b"one\n\xed\xa0\x80", r"line 2: not UTF-8 text \(half of a surrogate pair"),
        (codecs.BOM_UTF16_LE + "one\n".encode("utf-16-le") + b"\x00\xd8", "line 2: not UTF-16 text, as its byte"),
        (codecs.BOM_UTF16_LE + "one\n\0".encode("utf-16-le"), "line 2: a NUL"),
        (b"PAR1\x15\x04", "it is Parquet"),
        (b"PK\x03\x04\x14\x00", "it is a zip archive"),
        (b"\x1f\x8b\x08\x00", "it is compressed by gzip"),
        (b"%PDF-1.7\n", "it is a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer"),
    ],
)
def test_what_is_no_text_is_refused_by_its_kind_and_line(raw, said, tmp_path):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(InputError, match=rf"a\.txt.*{said}"):
        read_text(tmp_path / "a.txt")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_text(tmp_path)
