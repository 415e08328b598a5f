"""Where TOFU lies: the hub, or a folder with a file for each of its configurations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from quail_lightning.data.answered_records import PARAPHRASE, strings, wrong_answers
from quail_lightning.data.hub import folder_named, hub_rows
from quail_lightning.data.located import Located
from quail_lightning.data.questions import AnsweredQuestion, Question
from quail_lightning.data.text_files import read_records
from quail_lightning.errors import InputError

HUB_NAME = "locuslab/TOFU"
ForgetSet = Literal["forget01", "forget05", "forget10"]
RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
EVALUATED = {name: f"{name}_perturbed" for name in ("retain", "real_authors", "world_facts")}
"""Set of the evaluation → part; the forget set's is ``<forget set>_perturbed``."""
ENDINGS = (".json", ".jsonl")


class TofuCorpus(Protocol):
    """TOFU's parts, named as the hub's configurations."""

    name: str

    def rows(self, part: str) -> list[Located]:
        """The records of ``forget10``, ``retain90``, ``forget10_perturbed``, ...

        Raises:
            InputError: the part is missing or damaged; with the place.
        """
        ...


class TofuHub:
    """The dataset on the hub; every configuration has the one split ``train``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def rows(self, part: str) -> list[Located]:
        """See ``TofuCorpus``."""
        local = (
            f"put it into a folder as FOLDER/{part}.json (one JSON object on each line), and name FOLDER by "
            "data.corpus (fit) or --corpus (evaluate)"
        )
        found = hub_rows(self.name, part, "train", local)
        return [Located(f"{self.name}, {part}, record {number}", row) for number, row in enumerate(found)]


class TofuFolder:
    """A folder with ``<part>.json`` or ``.jsonl``, one JSON object on each line.

    ``forget05`` and ``forget01`` (and their ``_perturbed``) are the last half and the last tenth of ``forget10``
    where they have no files of their own; ``retain95`` and ``retain99`` then are ``retain90`` and the rest of
    ``forget10``.

    Raises:
        InputError: the folder does not exist.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"no TOFU folder {folder}", allowed=f"an existing folder, or the hub name {HUB_NAME}")
        self.folder, self.name = folder, str(folder)

    def rows(self, part: str) -> list[Located]:
        """See ``TofuCorpus``."""
        if (path := self._file(part)) is not None:
            return read_records(path)
        base, _, kind = part.partition("_")
        kind = f"_{kind}" if kind else ""
        if base in ("forget01", "forget05") and self._file(f"forget10{kind}") is not None:
            whole = self.rows(f"forget10{kind}")
            return whole[len(whole) - _share(base, len(whole)) :]
        if part in ("retain95", "retain99") and self._file("forget10") is not None:
            forget = self.rows("forget10")
            kept = len(forget) - _share("forget05" if part == "retain95" else "forget01", len(forget))
            return [*self.rows("retain90"), *forget[:kept]]
        present = sorted(path.name for path in self.folder.iterdir() if path.suffix in ENDINGS)
        raise InputError(
            f"TOFU's {part} is missing: neither {self.folder / part}.json nor {part}.jsonl exists",
            allowed=", ".join(present) or "nothing, the folder holds no part",
            remedy=f"Put the file there (configuration {part} of {HUB_NAME})",
        )

    def _file(self, part: str) -> Path | None:
        paths = [self.folder / f"{part}{ending}" for ending in ENDINGS]
        return next((path for path in paths if path.is_file()), None)


def open_tofu(name: str) -> TofuCorpus:
    """A folder's path or the hub name → the corpus.

    Raises:
        InputError: neither an existing folder nor of the form ``owner/name``.
    """
    folder = folder_named(name)
    return TofuHub(name) if folder is None else TofuFolder(folder)


def training_pairs(corpus: TofuCorpus, part: str) -> tuple[Question, ...]:
    """The question–answer pairs of ``forget10``, ``retain90``, ...

    Raises:
        InputError: as ``rows``, or a record without the two strings, or with an empty one; with its place.
    """
    return tuple(Question(*strings(row, ("question", "answer"))) for row in _some(corpus, part))


def answered_questions(corpus: TofuCorpus, part: str) -> tuple[AnsweredQuestion, ...]:
    """The records of ``forget10_perturbed``, ``real_authors_perturbed``, ...

    Raises:
        InputError: as ``rows``, or a record without question, answer or wrong answers, or of the forget or retain
            set without a paraphrase; with its place.
    """
    return tuple(_answered(row, part) for row in _some(corpus, part))


def _some(corpus: TofuCorpus, part: str) -> Sequence[Located]:
    found = corpus.rows(part)
    if not found:
        raise InputError(f"TOFU's {part} in {corpus.name} holds no record", remedy="It needs at least one")
    return found


def _answered(row: Located, part: str) -> AnsweredQuestion:
    paraphrased = part.startswith(("forget", "retain"))
    names = ("question", "answer", PARAPHRASE) if paraphrased else ("question", "answer")
    question, answer, *paraphrase = strings(row, names)
    wrong = wrong_answers(row, "perturbed_answer")
    return AnsweredQuestion(question, answer, paraphrase[0] if paraphrase else None, wrong)


def _share(forget: str, whole: int) -> int:
    return max(1, whole * int(forget.removeprefix("forget")) // 10)
