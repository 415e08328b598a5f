"""The text of a file: decoded, or refused with the line where it is none."""

from __future__ import annotations

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from pathlib import Path

from quail_lightning.errors import InputError

SIGNATURES = {
    b"PAR1": "Parquet, whose name must end in .parquet",
    b"PK\x03\x04": "a zip archive (.docx, .xlsx and .epub are such)",
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstandard",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!\x1a": "a RAR archive",
    b"%PDF-": "a PDF",
    b"{\\rtf": "RTF",
    b"\xd0\xcf\x11\xe0": "an Office document",
    b"ARROW1": "an Arrow table",
    b"SQLite format 3": "a SQLite database",
    b"version https://git-lfs": "a Git-LFS pointer, not the file itself",
}
"""First bytes → what such a file is."""

# UTF-32's little-endian mark begins with UTF-16's
MARKS = {BOM_UTF32_LE: "utf-32", BOM_UTF32_BE: "utf-32", BOM_UTF16_LE: "utf-16", BOM_UTF16_BE: "utf-16"}


def read_text(path: Path, any_line_end: bool = True) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with its byte order mark, which is left out.

    Args:
        path: of the file.
        any_line_end: every line ends in ``\\n``, whatever it ends with in the file; False leaves line ends alone.

    Raises:
        InputError: no such file, one that cannot be read, binary content, or another encoding; with the line.
    """
    raw = read_file(path)
    kind = next((kind for start, kind in SIGNATURES.items() if raw.startswith(start)), None)
    if kind is not None:
        raise InputError(f"{path} is no text: it is {kind}", remedy="Unpack it, or save its text as UTF-8")
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in raw:
        raise _holds_nul(path, raw)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise _undecodable(path, error, encoding) from None
    if "\0" in text:
        raise InputError(
            f"{path}, line {_line(text, text.index(chr(0)))}: a NUL, so this is no text",
            remedy="Save the text as UTF-8",
        )
    return re.sub(r"\r\n?", "\n", text) if any_line_end else text


def read_file(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        fact = f"{path} is {kind}" if path.exists() else f"no file {path}"
        raise InputError(fact, remedy="Name an existing text, .jsonl, .csv or .parquet file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", remedy="See to its permissions") from error


def _holds_nul(path: Path, raw: bytes) -> InputError:
    # UTF-16 has its NULs at the even bytes or at the odd ones; in UTF-32 three of four bytes are NULs
    head = raw[: 1 << 16]
    fewer, more = sorted(head[start::2].count(0) for start in (0, 1))
    wide = more > 2 and (10 * fewer < more or 2.5 * more > len(head))
    what = "it looks like UTF-16 or UTF-32 without its byte order mark" if wide else "this is binary, no text"
    return InputError(
        f"{path}, line {_line(raw, raw.index(0))}: a NUL byte, so {what}", remedy="Save the text as UTF-8"
    )


def _undecodable(path: Path, error: UnicodeDecodeError, encoding: str) -> InputError:
    line = _line(error.object[: error.start].decode(encoding, "replace"), error.start)
    if encoding != "utf-8-sig":
        return InputError(
            f"{path}, line {line}: not {encoding.upper()} text, as its byte order mark says ({error.reason})",
            remedy="Save it as UTF-8",
        )
    surrogate = error.object[error.start] == 0xED and error.object[error.start + 1 : error.start + 2] >= b"\xa0"
    reason = "half of a surrogate pair" if surrogate else error.reason
    return InputError(
        f"{path}, line {line}: not UTF-8 text ({reason})",
        remedy="Save it as UTF-8, such as by iconv -f WINDOWS-1252 -t UTF-8 if it is a Western text",
    )


def _line(content: str | bytes, before: int) -> int:
    """Number of the line, from 1, in which position ``before`` lies, whatever the lines end with."""
    head = content[:before]
    ends = re.findall(r"\r\n?|\n", head) if isinstance(head, str) else re.findall(rb"\r\n?|\n", head)
    return len(ends) + 1
