"""A user's own files, read as what they are: text, JSON, CSV and Parquet; errors name file and line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from quail_lightning.data.chat import CHAT_FIELDS, Renderer, chat_turns, turns_as_json
from quail_lightning.data.file_text import read_text
from quail_lightning.data.json_records import JSON_ENDINGS, is_json, read_json
from quail_lightning.data.located import Located, check_characters, wrong_form
from quail_lightning.data.parsed_once import parsed_once
from quail_lightning.data.questions import Question
from quail_lightning.data.tables import DELIMITERS, read_csv, read_parquet
from quail_lightning.errors import InputError

TEXT_ENDINGS = ("", ".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".log")
RECORD_ENDINGS = (*JSON_ENDINGS, *DELIMITERS, ".parquet")


def read_documents(path: str | Path, column: str = "text", render: Renderer = turns_as_json) -> list[str]:
    """The documents of a file, by its name's ending in any capitals.

    ``RECORD_ENDINGS``: records, see ``read_records``. Each is a string, or holds one as ``column``, or holds a
    chat as ``column``, ``messages`` or ``conversations``. ``TEXT_ENDINGS``: text, its documents separated by a
    blank line. Documents of white space alone are left out, with a line that counts them.

    Args:
        path: of the file.
        column: field or column that holds the text.
        render: makes a text of a chat's turns.

    Raises:
        InputError: no such file, another ending, no text in it, or a record of another form; with file and line.
    """
    file = Path(path).expanduser()
    if is_record_file(file):
        found = [_document(row, column, render) for row in read_records(file, (column, *CHAT_FIELDS))]
        if empty := [row.place for row in found if not row.record.strip()]:
            _say_once(f"{len(empty)} records without text left out (the first: {empty[0]})")
        documents = [row.record for row in found]
    elif file.suffix.lower() in TEXT_ENDINGS:
        documents = _prose(file)
    else:
        raise InputError(
            f"{file} has an ending that is not known here",
            given=file.suffix,
            allowed=", ".join(filter(None, (*TEXT_ENDINGS, *RECORD_ENDINGS))),
            remedy="If it is plain text, let its name end in .txt",
        )
    kept = [document for document in documents if document.strip()]
    if not kept:
        raise InputError(f"{file} holds no text", remedy="Name a file with at least one document")
    return kept


def split_documents(content: str) -> list[str]:
    """The documents of a text, separated by lines of nothing but white space."""
    return [document for document in re.split(r"\n(?:[^\S\n]*\n)+", content) if document.strip()]


def is_record_file(path: str | Path) -> bool:
    """Whether a file holds records, by its name's ending."""
    return Path(path).suffix.lower() in RECORD_ENDINGS


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """Question–answer pairs of a file of records with the strings ``question`` and ``answer``.

    Raises:
        InputError: as ``read_records``, or a record without the two strings.
    """
    pairs = []
    for found in read_records(Path(path).expanduser(), ("question", "answer")):
        record = found.record if isinstance(found.record, dict) else {}
        asked, answer = record.get("question"), record.get("answer")
        if not isinstance(asked, str) or not isinstance(answer, str):
            raise wrong_form(found, "objects with the strings question and answer")
        pairs.append(Question(asked, answer))
    return tuple(pairs)


def holds_questions(path: str | Path, column: str = "text") -> bool:
    """Whether a file's records are question–answer pairs: the first has one of the two, and neither text nor chat.

    Raises:
        InputError: as ``read_records``.
    """
    if not is_record_file(path):
        return False
    first = read_records(Path(path).expanduser())[0].record
    fields = {name for name, value in first.items() if value is not None} if isinstance(first, dict) else set()
    return bool(fields & {"question", "answer"}) and not fields & {column, *CHAT_FIELDS}


@parsed_once
def read_records(path: Path, columns: Sequence[str] = ()) -> list[Located]:
    """The records of a file: a JSON list, JSON lines, or the rows of a CSV or Parquet table.

    Args:
        path: of the file.
        columns: of which a table must have one at least.

    Raises:
        InputError: no such file, another ending, a damaged file or row (with its line), or no record.
    """
    ending = path.suffix.lower()
    if ending in JSON_ENDINGS:
        found = read_json(path)
    elif ending in DELIMITERS:
        found = read_csv(path, columns)
    elif ending == ".parquet":
        found = read_parquet(path, columns)
    else:
        raise InputError(
            f"{path} is neither .json nor .jsonl, nor one of the other files that hold records",
            allowed=", ".join(RECORD_ENDINGS),
            remedy="Write one JSON object on each line",
        )
    if not found:
        raise InputError(f"{path} holds no record", remedy="It needs at least one")
    return [check_characters(row) for row in found]


def _document(found: Located, column: str, render: Renderer) -> Located:
    """The text of a record, at its place."""
    value = found.record
    if isinstance(value, dict):
        value = next((value[name] for name in (column, *CHAT_FIELDS) if value.get(name) is not None), None)
    if isinstance(value, list):
        turns = chat_turns(Located(found.place, value))
        try:
            value = render(turns)
        except InputError as problem:
            fact = f"{found.place}: {problem.fact}"
            raise InputError(fact, given=problem.given, remedy=problem.remedy) from None
    if not isinstance(value, str):
        raise wrong_form(found, f"strings, objects with the string {column} (data.column), or chats as messages")
    return Located(found.place, value)


@parsed_once
def _prose(path: Path) -> list[str]:
    content = read_text(path)
    _check_prose(path, content)
    return split_documents(content)


def _check_prose(path: Path, content: str) -> None:
    """Refuse records under the name of a text: what is between their fields would be trained on."""
    if is_json(content):
        raise InputError(f"{path} holds JSON, not prose", remedy="Let its name end in .jsonl or .json")
    header = content[:1000].lstrip().partition("\n")[0].strip()
    fields = [name.strip().strip('"') for name in re.split("[,;\t|]", header)]
    if len(fields) > 1 and "text" in fields and all(re.fullmatch(r"\w+", name) for name in fields):
        raise InputError(f"{path} begins as a table does, not as prose", remedy="Let its name end in .csv or .tsv")


@cache
def _say_once(message: str) -> None:
    """A file is read several times: to check it, to tell models apart, to cut windows."""
    rank_zero_info(message)
