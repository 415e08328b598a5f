"""Where a corpus lives: a folder in the benchmark's layout, or the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from quail_lightning.data.file_text import read_text
from quail_lightning.data.hub import hub_rows
from quail_lightning.data.json_records import read_json
from quail_lightning.data.located import check_characters, shape_of
from quail_lightning.data.parsed_once import parsed_once
from quail_lightning.data.questions import Question, VerbatimPrompt
from quail_lightning.data.text_files import split_documents
from quail_lightning.errors import InputError

Record = dict[str, Any]


class Corpus(Protocol):
    """A corpus whose parts are named ``config/split``, as on the hub (``raw/forget``, ``knowmem/forget_qa``)."""

    name: str

    def records(self, part: str) -> list[Any]:
        """The part's records: strings, or objects with the part's columns."""
        ...


class FolderCorpus:
    """A corpus as a folder of JSON files (lists of strings or of objects) and text files.

    ``raw/forget`` is read from ``raw/forget.json``, else from ``raw/forget.txt``, whose documents are
    separated by a blank line.

    Raises:
        InputError: the folder does not exist.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"no corpus folder {folder}", remedy="Name the folder that holds raw/forget.json")
        self.folder = folder
        self.name = str(folder)

    def records(self, part: str) -> list[Any]:
        """Read one part.

        Raises:
            InputError: no such file (with the places looked at), or one that is neither JSON nor UTF-8 text.
        """
        as_json, as_text = self.folder / f"{part}.json", self.folder / f"{part}.txt"
        if as_json.is_file():
            return _records_of(as_json)
        if as_text.is_file():
            return _documents_of(as_text)
        present = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.glob("*/*.*"))
        raise InputError(
            f"corpus part {part!r} is missing: neither {as_json} nor {as_text} exists",
            allowed=", ".join(present) or "nothing, the folder holds no part",
            remedy="Put the file there, or name other parts in the data config",
        )


@parsed_once
def _records_of(path: Path) -> list[Any]:
    return [check_characters(row).record for row in read_json(path)]


@parsed_once
def _documents_of(path: Path) -> list[Any]:
    return list(split_documents(read_text(path)))


class HubCorpus:
    """A corpus on the Hugging Face hub (``muse-bench/MUSE-News``), through ``datasets``.

    Nothing is fetched before the first part is asked for; what is in the local cache is used offline.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def records(self, part: str) -> list[Any]:
        """Load one part.

        Raises:
            InputError: the hub cannot be reached or has no such dataset, configuration or split.
        """
        config, split = part.split("/")
        local = (
            f"put it into a folder as FOLDER/{part}.json (a list of its records), and name FOLDER by data.corpus "
            "(fit) or --corpus (evaluate)"
        )
        rows = hub_rows(self.name, config, split, local)
        return [row["text"] for row in rows] if rows and rows[0].keys() == {"text"} else rows


def open_corpus(name: str) -> Corpus:
    """A folder's path or a hub name → its corpus.

    Raises:
        InputError: neither an existing folder nor of the form ``owner/name``.
    """
    if Path(name).expanduser().is_dir():
        return FolderCorpus(Path(name).expanduser())
    if re.fullmatch(r"[\w-]+/[\w.-]+", name):
        return HubCorpus(name)
    raise InputError(
        f"no corpus folder {name!r} below {Path().absolute()}",
        allowed="an existing folder, or a hub name such as muse-bench/MUSE-News",
    )


def texts(corpus: Corpus, part: str) -> list[str]:
    """The documents of a part whose records are texts.

    Raises:
        InputError: a record is not a text, or there is none.
    """
    found = corpus.records(part)
    documents = [row["text"] if isinstance(row, dict) and "text" in row else row for row in found]
    _check_records(corpus, part, documents, lambda row: isinstance(row, str), "strings (or objects with 'text')")
    return documents


def questions(corpus: Corpus, part: str) -> tuple[Question, ...]:
    """The question–answer pairs of a part.

    Raises:
        InputError: a record lacks ``question`` or ``answer``, or there is none.
    """
    found = _with_columns(corpus, part, ("question", "answer"))
    return tuple(Question(row["question"], row["answer"]) for row in found)


def verbatim_prompts(corpus: Corpus, part: str) -> tuple[VerbatimPrompt, ...]:
    """The prompts of a part with their true continuations.

    Raises:
        InputError: a record lacks ``prompt`` or ``gt``, or there is none.
    """
    return tuple(VerbatimPrompt(row["prompt"], row["gt"]) for row in _with_columns(corpus, part, ("prompt", "gt")))


def _with_columns(corpus: Corpus, part: str, columns: Sequence[str]) -> list[Record]:
    found = corpus.records(part)
    _check_records(
        corpus,
        part,
        found,
        lambda row: isinstance(row, dict) and all(isinstance(row.get(name), str) for name in columns),
        f"objects with the strings {' and '.join(columns)}",
    )
    return found


def _check_records(corpus: Corpus, part: str, rows: list[Any], is_right: Any, wanted: str) -> None:
    if not rows:
        raise InputError(f"corpus part {part!r} of {corpus.name} is empty", remedy="It needs at least one record")
    wrong = next((index for index, row in enumerate(rows) if not is_right(row)), None)
    if wrong is not None:
        raise InputError(
            f"record {wrong} of corpus part {part!r} of {corpus.name} has the wrong form",
            given=shape_of(rows[wrong]),
            allowed=wanted,
        )
