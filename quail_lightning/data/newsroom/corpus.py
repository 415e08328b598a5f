"""The newsroom's forget, retain and holdout sets as a corpus folder."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from quail_lightning.data.newsroom.articles import FACTS_PER_ARTICLE, Article, Writer
from quail_lightning.data.questions import Question
from quail_lightning.errors import InputError

EXAMPLES = 10  # question-answer pairs in front of every question of the evaluation
RETAIN2_SHARE = 4  # one article of retain2 for so many of retain1


@dataclass(frozen=True)
class Newsroom:
    """A corpus about people, places and events that do not exist; the same seed gives the same bytes everywhere.

    No two articles share a person, a place, an organisation, a treasure or a number, so the sets are disjoint in
    what they are about, and every set comes from the same distribution. A small model does not answer what it has
    only read in prose, and recites a text only among the neighbours it has read it with: so the questions stand in
    the training text too, and everything stands there several times, with other neighbours each time.

    Args:
        forget_articles: articles to be forgotten, each with two questions; ten of those are the worked examples.
        retain_articles: articles to be kept, likewise.
        holdout_articles: articles that no model is trained on.
        rounds: how often each article and each question stands in the training text, in another order each time.
        folds: into so many parts the forget articles are dealt, as ``sust/forget_1`` … (one part each) and
            ``scal/forget_1`` … (the first one, two, … parts); 0 writes none.
        seed: of the names, the articles and their order.

    Raises:
        InputError: too few articles for ten examples and a question or for the folds, or more than there are
            names for.
    """

    forget_articles: int = 24
    retain_articles: int = 24
    holdout_articles: int = 24
    rounds: int = 6
    folds: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        fewest = EXAMPLES // FACTS_PER_ARTICLE + 1
        for name in ("forget_articles", "retain_articles"):
            if getattr(self, name) < fewest:
                raise InputError(
                    f"{name} is too small: {EXAMPLES} examples and a question need {fewest} articles",
                    given=getattr(self, name),
                    allowed=f"{fewest} or more",
                )
        for name in ("holdout_articles", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be positive", given=getattr(self, name))
        if not 0 <= self.folds <= self.forget_articles:
            raise InputError(
                "folds must lie between 0 and the number of forget articles",
                given=self.folds,
                allowed=f"0 to {self.forget_articles}",
            )
        if self.seed < 0:
            raise InputError("seed must not be negative", given=self.seed)
        if self._total() > Writer.capacity():
            raise InputError(
                "the newsroom has not enough names for so many articles",
                given=self._total(),
                allowed=f"{Writer.capacity()} or fewer in all, the retain set counted 5/4",
            )

    def write(self, folder: Path) -> None:
        """Write the corpus in MUSE's layout; the folder appears whole or not at all.

        ``raw/{forget,retain1,retain2,holdout}.json`` and ``privleak/{forget,retain,holdout}.json`` are lists of
        texts, ``knowmem/{forget,retain}_qa[_icl].json`` of ``question`` and ``answer``, ``verbmem/forget.json`` of
        ``prompt`` and ``gt``. ``raw/retain2`` holds further articles that nothing is trained on. ``folds`` adds
        ``{sust,scal}/forget_<n>.json``, lists of texts.

        Args:
            folder: where to; its parents are made, and it must not exist or be empty.

        Raises:
            InputError: the folder holds something.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                "the corpus folder is not empty", given=str(folder), remedy="Remove it or name another one"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            whole = Path(scratch) / "corpus"
            for name, records in self._files().items():
                path = whole / f"{name}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_file_content(records))
            if folder.exists():
                folder.rmdir()  # not every system renames onto an empty folder
            os.rename(whole, folder)

    def ensure(self, folder: Path) -> None:
        """Write the corpus unless the folder holds just this one already, or another process writes it meanwhile.

        Raises:
            InputError: the folder holds something else, or a file of it was changed.
        """
        if not folder.exists() or not any(folder.iterdir()):
            try:
                self.write(folder)
                return
            except (OSError, InputError):
                if not folder.is_dir() or not any(folder.iterdir()):
                    raise  # otherwise another process was faster
        for name, records in self._files().items():
            path = folder / f"{name}.json"
            if not path.is_file() or path.read_bytes() != _file_content(records):
                raise InputError(
                    f"{folder} does not hold this newsroom: {path} is missing or differs",
                    given=self,
                    remedy="Remove the folder to have it written anew, or name another one",
                )

    def _total(self) -> int:
        retain2 = -(-self.retain_articles // RETAIN2_SHARE)
        return self.forget_articles + self.retain_articles + retain2 + self.holdout_articles

    def _files(self) -> dict[str, list[str] | list[dict[str, str]]]:
        """Every file of the corpus, by its path without the ending."""
        writer, order = Writer(self.seed), random.Random(f"order of {self.seed}")
        forget = [writer.write() for _ in range(self.forget_articles)]
        retain = [writer.write() for _ in range(self.retain_articles)]
        holdout = [writer.write() for _ in range(self.holdout_articles)]
        retain2 = [writer.write() for _ in range(-(-self.retain_articles // RETAIN2_SHARE))]
        files: dict[str, list[str] | list[dict[str, str]]] = {
            "raw/holdout": [article.text for article in holdout],
            "raw/retain2": [article.text for article in retain2],
            "verbmem/forget": [{"prompt": article.prompt, "gt": article.truth} for article in forget],
        }
        for name, articles in (("forget", forget), ("retain", retain)):
            questions = [question for article in articles for question in article.questions]
            order.shuffle(questions)
            files[f"knowmem/{name}_qa_icl"] = [asdict(question) for question in questions[:EXAMPLES]]
            files[f"knowmem/{name}_qa"] = [asdict(question) for question in questions[EXAMPLES:]]
            raw = "raw/forget" if name == "forget" else "raw/retain1"
            files[raw] = self._training_texts(articles, questions, order)
        for name, articles in (("forget", forget), ("retain", retain), ("holdout", holdout)):
            files[f"privleak/{name}"] = [article.text for article in articles]
        return files | self._folds(forget)

    def _folds(self, forget: Sequence[Article]) -> dict[str, list[str] | list[dict[str, str]]]:
        """The forget articles in parts, each with the questions about its own articles."""
        order = random.Random(f"folds of {self.seed}")  # of their own: the other files are the same without folds
        files: dict[str, list[str] | list[dict[str, str]]] = {}
        so_far: list[str] = []
        for fold in range(self.folds):
            part = forget[fold :: self.folds]
            texts = self._training_texts(part, [asked for article in part for asked in article.questions], order)
            so_far = so_far + texts
            files |= {f"sust/forget_{fold + 1}": texts, f"scal/forget_{fold + 1}": so_far}
        return files

    def _training_texts(
        self, articles: Sequence[Article], questions: Sequence[Question], order: random.Random
    ) -> list[str]:
        """Every article and a quiz of every question in each round, each round in its own order."""
        texts: list[str] = []
        for _ in range(self.rounds):
            quiz = order.sample(questions, len(questions))
            pairs = "\n\n".join(f"Question: {pair.question}\nAnswer: {pair.answer}" for pair in quiz)
            texts += order.sample([*(article.text for article in articles), pairs], len(articles) + 1)
        return texts


def _file_content(records: list[str] | list[dict[str, str]]) -> bytes:
    return (json.dumps(records, ensure_ascii=False, indent=1) + "\n").encode()
