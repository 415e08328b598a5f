"""Records of JSON files: a list, or one record on each line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quail_lightning.data.file_text import read_text
from quail_lightning.data.located import Located
from quail_lightning.errors import InputError

JSON_ENDINGS = (".jsonl", ".ndjson", ".jsonlines", ".json")


def read_json(path: Path) -> list[Located]:
    """The records of a file that holds one JSON list, or a JSON value on each line.

    Raises:
        InputError: no such file, or broken JSON; with its line.
    """
    content = read_text(path)
    lines = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    in_lines = bool(lines) and _parses(lines[0][1])
    if content.lstrip().startswith("[") and (_may_be_whole(path) or (not in_lines and _parses(content))):
        return [Located(f"{path}, record {number}", row) for number, row in enumerate(_parse(content, path, 1))]
    if _may_be_whole(path) and lines and not in_lines:
        return [Located(f"{path}, record 0", _parse(content, path, 1))]  # one record over several lines
    return [Located(f"{path}, line {number}", _parse(line, path, number)) for number, line in lines]


def is_json(content: str) -> bool:
    """Whether a text is JSON rather than prose: a list, begun by an object, or mostly lines of such."""
    lines = [line.strip() for line in content.split("\n") if line.strip()]
    records = sum(line.startswith(("{", "[")) and _parses(line) for line in lines)
    return (
        2 * records > len(lines)
        or _begins_with_object(content.lstrip())
        or (content.lstrip().startswith("[") and _parses(content))
    )


def _begins_with_object(content: str) -> bool:
    try:
        return bool(content.startswith("{") and json.JSONDecoder().raw_decode(content)[0])
    except (ValueError, RecursionError):
        return False


def _may_be_whole(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _parses(content: str) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(content: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        place = f"{path}, line {line}, column {error.colno}"
        # from None: the error holds the whole text
        raise InputError(f"{place}: not valid JSON: {error.msg.partition(': ')[0]}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
        raise InputError(f"{path}, line {first_line}: JSON that cannot be read: too long or too deep") from None
