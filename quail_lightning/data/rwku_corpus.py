"""Where RWKU lies: the hub, or a folder in the layout of its own scripts."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol

from quail_lightning.data.hub import folder_named, hub_rows
from quail_lightning.data.located import Located, shape_of
from quail_lightning.data.text_files import read_records
from quail_lightning.errors import InputError

HUB_NAME = "jinzhuoran/RWKU"
Generator = Literal["llama3", "phi3"]
Row = dict[str, Any]

TRAINING_FILES = {"positive": "positive", "negative": "negative", "refusal": "reject"}
"""Training corpus → stem of its local file; those that Phi-3 wrote end in ``_phi``."""


class RwkuCorpus(Protocol):
    """RWKU's parts, each for some of its 200 subjects."""

    def probes(self, part: str, subjects: Sequence[str]) -> list[Row]:
        """Rows of ``forget_level1`` … ``neighbor_level2`` with the strings ``query`` and ``answer``."""
        ...

    def training(self, part: str, generator: Generator, subjects: Sequence[str]) -> list[Row]:
        """Rows of ``positive``, ``negative`` (``text``) or ``refusal`` (``instruction``, ``output``)."""
        ...


class RwkuHub:
    """The dataset on the hub: configurations ``forget_level1`` (test), ``train_positive_llama3`` (train), ..."""

    def __init__(self, name: str) -> None:
        self.name = name

    def probes(self, part: str, subjects: Sequence[str]) -> list[Row]:
        """See ``RwkuCorpus``.

        Raises:
            InputError: the hub cannot be reached, or a subject has no row.
        """
        return self._rows(part, "test", f"{part}.json", subjects)

    def training(self, part: str, generator: Generator, subjects: Sequence[str]) -> list[Row]:
        """See ``RwkuCorpus``; raises as ``probes``."""
        return self._rows(f"train_{part}_{generator}", "train", _file_name(part, generator), subjects)

    def _rows(self, config: str, split: str, file: str, subjects: Sequence[str]) -> list[Row]:
        local = (
            f"put it into a folder as FOLDER/{file} (a list of its records; or Target/1_Stephen_King/{file}, "
            "and so on), and name FOLDER by data.corpus (fit) or --corpus (evaluate)"
        )
        rows = hub_rows(self.name, config, split, local)
        return _of_subjects([Located(f"{self.name}, {config}", row) for row in rows], subjects)


class RwkuFolder:
    """A folder: one subject's files, ``All/``, or ``Target/<number>_<Subject>/`` for each subject.

    Raises:
        InputError: the folder does not exist.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"no RWKU folder {folder}", allowed=f"an existing folder, or the hub name {HUB_NAME}")
        self.folder = folder

    def probes(self, part: str, subjects: Sequence[str]) -> list[Row]:
        """See ``RwkuCorpus``.

        Raises:
            InputError: no such file (with the places looked at), broken JSON, or a subject without a row.
        """
        return self._rows(f"{part}.json", subjects)

    def training(self, part: str, generator: Generator, subjects: Sequence[str]) -> list[Row]:
        """See ``RwkuCorpus``; raises as ``probes``."""
        return self._rows(_file_name(part, generator), subjects)

    def _rows(self, file: str, subjects: Sequence[str]) -> list[Row]:
        for path in (self.folder / file, self.folder / "All" / file):
            if path.is_file():
                return _of_subjects(read_records(path), subjects)
        found: list[Located] = []
        for subject in subjects:
            pattern = f"*_{subject.replace(' ', '_')}/{file}"
            paths = [*self.folder.glob(f"Target/{pattern}"), *self.folder.glob(pattern)]
            if not paths:
                raise InputError(
                    f"RWKU's {file} is missing for {subject!r}: looked for {self.folder / file}, All/{file}, "
                    f"Target/{pattern} and {pattern}",
                    remedy="Put the file there, or check the subject's name",
                )
            found += read_records(paths[0])
        return _of_subjects(found, subjects)


def open_rwku(name: str) -> RwkuCorpus:
    """A folder's path or the hub name → the corpus.

    Raises:
        InputError: neither an existing folder nor of the form ``owner/name``.
    """
    folder = folder_named(name)
    return RwkuHub(name) if folder is None else RwkuFolder(folder)


def _file_name(part: str, generator: Generator) -> str:
    return f"{TRAINING_FILES[part]}{'_phi' if generator == 'phi3' else ''}.json"


def _of_subjects(rows: Sequence[Located], subjects: Sequence[str]) -> list[Row]:
    """The rows of the subjects, in the corpus' order.

    Raises:
        InputError: a row is no object, or a subject has no row (with those that have).
    """
    for place, row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("subject"), str):
            raise InputError(
                f"{place} has no subject", given=shape_of(row), allowed="objects with the string subject"
            )
    chosen: list[Row] = [row for _, row in rows if row["subject"] in subjects]
    for subject in subjects:
        if not any(row["subject"] == subject for row in chosen):
            known = sorted({row["subject"] for _, row in rows})
            close = get_close_matches(subject, known, n=3)
            raise InputError(
                f"RWKU has no row about {subject!r} in {rows[0].place.partition(', record')[0]}",
                allowed=f"{', '.join(close) or 'one of its subjects'} (of {len(known)})",
            )
    return chosen
