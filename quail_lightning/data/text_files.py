"""A user's own files: text, JSON and JSON lines, with errors that name file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from quail_lightning.data.questions import Question
from quail_lightning.errors import InputError


class Located(NamedTuple):
    """A record and where it stands, such as ``my.jsonl, line 3``."""

    place: str
    record: Any


def read_documents(path: str | Path) -> list[str]:
    """The documents of a file.

    ``*.jsonl``: on each line a string, or an object with the string ``text``. ``*.json``: a list of such. Any
    other file is text, its documents separated by a blank line. Documents of white space alone are left out.

    Raises:
        InputError: no such file, no text in it, not UTF-8, or a record of another form; with file and line.
    """
    file = Path(path).expanduser()
    if file.suffix in (".jsonl", ".json"):
        documents = [_text(found) for found in read_records(file)]
    else:
        documents = _content(file).split("\n\n")
    kept = [document for document in documents if document.strip()]
    if not kept:
        raise InputError(f"{file} holds no text", remedy="Name a file with at least one document")
    return kept


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """Question–answer pairs of a JSON or JSON lines file, objects with the strings ``question`` and ``answer``.

    Raises:
        InputError: as ``read_records``, or an object without the two strings.
    """
    pairs = []
    for place, record in read_records(Path(path).expanduser()):
        asked, answer = (record.get(name) if isinstance(record, dict) else None for name in ("question", "answer"))
        if not isinstance(asked, str) or not isinstance(answer, str):
            raise _wrong_form(place, record, "objects with the strings question and answer")
        pairs.append(Question(asked, answer))
    return tuple(pairs)


def read_records(path: Path) -> list[Located]:
    """The records of a JSON list or of a JSON lines file.

    Raises:
        InputError: no such file, another ending, broken JSON (with its line), no list, or no record.
    """
    if path.suffix not in (".jsonl", ".json"):
        raise InputError(f"{path} is neither .json nor .jsonl", remedy="Write one JSON object on each line")
    content = _content(path)
    if path.suffix == ".jsonl":
        lines = enumerate(content.split("\n"), start=1)
        found = [Located(f"{path}, line {n}", _parse(line, path, n)) for n, line in lines if line.strip()]
    else:
        records = _parse(content, path, 1)
        if not isinstance(records, list):
            raise InputError(f"{path} must hold a list of records", given=type(records).__name__)
        found = [Located(f"{path}, record {number}", record) for number, record in enumerate(records)]
    if not found:
        raise InputError(f"{path} holds no record", remedy="It needs at least one")
    return found


def _content(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"no file {path}", remedy="Name an existing text, .json or .jsonl file")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text ({error.reason})") from error


def _parse(content: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(f"{path}, line {line}, column {error.colno}: not valid JSON: {error.msg}") from error


def _text(found: Located) -> str:
    record = found.record
    text = record.get("text") if isinstance(record, dict) else record
    if not isinstance(text, str):
        raise _wrong_form(found.place, record, "strings, or objects with the string text")
    return text


def _wrong_form(place: str, record: Any, wanted: str) -> InputError:
    given = sorted(record) if isinstance(record, dict) else record
    return InputError(f"{place} has the wrong form", given=given, allowed=wanted)
