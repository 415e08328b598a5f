"""A user's own text files as a DataModule: no benchmark needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quail_lightning.data.alternates import Alternates, alternate_answers
from quail_lightning.data.answers import AnswerWindows, LossOn, check_pairs, paired_windows, plain_text
from quail_lightning.data.chat import renderer
from quail_lightning.data.forget_retain import Schedule
from quail_lightning.data.questions import ChatUse, EvaluationRecords, Question, QuestionSet
from quail_lightning.data.served import Served, ServedDataModule
from quail_lightning.data.sets import (
    Documents,
    Windows,
    check_sizes,
    disjoint_documents,
    say_overlap,
)
from quail_lightning.data.text_files import holds_questions, read_documents, read_questions, read_records
from quail_lightning.data.tokenizer import named_tokenizer
from quail_lightning.data.window_records import MOST_RECORDS, records_from_windows, reported_windows
from quail_lightning.data.windows import token_windows
from quail_lightning.errors import InputError


class OwnTextDataModule(ServedDataModule):
    """Forget/retain windows of two files; the records are cut from them.

    A file is text with a blank line between documents, or JSON lines, JSON, CSV or Parquet (see
    ``read_documents``); chats are rendered by the tokenizer's chat template. The first half of a window is a
    verbatim prompt, the rest its truth; whole windows are the membership texts.

    A file of records with ``question`` and ``answer`` and no text holds question–answer pairs: each is one window,
    of which the answer is learned or forgotten (see ``AnswerWindows``). Of such a forget file the question is the
    verbatim prompt, the answer its truth, and its pairs are asked for M2 where no other file is named.

    Args:
        forget: file of what is to be forgotten.
        retain: file of what is to be kept; None where the method has no retain term.
        tokenizer: folder or hub name; the command line takes it from ``model.target``.
        holdout: file of like text that no model was trained on, for M3; None leaves M3 out. Documents that also
            stand in the other two files are left out.
        column: field or column of the records that holds the text.
        forget_questions: file of records with ``question`` and ``answer``, for M2; None leaves it out.
        retain_questions: likewise, for M4.
        examples: the first so many pairs of a question file stand before each question and are not asked.
        max_len: tokens a window, BOS included.
        batch_size: windows of each kind in one optimizer step (on each device).
        max_forget_windows: use only the first so many forget windows; None for all.
        max_retain_windows: likewise for the retain set.
        validation_windows: forget windows that no record is cut from, evenly spread: keeping the best model
            (``best.enabled``) chooses by such windows alone.
        schedule: order of the steps; the command line takes it from ``model.schedule``.
        seed: of the windows' order; the command line takes it from ``seed_everything``.
        loss_on: what of question–answer pairs is learned: the ``answer`` (where not given), or ``all``.
        chat: whether their questions are put in the tokenizer's chat template: ``auto`` where it has one.
        alternates: let the forget steps see an alternate answer beside each true one, for the terms that compare
            them; see ``Alternates``.
    """

    def __init__(
        self,
        forget: str,
        retain: str | None = None,
        tokenizer: str | None = None,
        holdout: str | None = None,
        column: str = "text",
        forget_questions: str | None = None,
        retain_questions: str | None = None,
        examples: int = 0,
        max_len: int = 512,
        batch_size: int = 2,
        max_forget_windows: int | None = None,
        max_retain_windows: int | None = None,
        validation_windows: int = 0,
        schedule: Schedule = "alternate",
        seed: int = 42,
        loss_on: LossOn | None = None,
        chat: ChatUse = "auto",
        alternates: Alternates | None = None,
    ) -> None:
        super().__init__()
        check_sizes(max_len, batch_size, max_forget_windows, max_retain_windows, validation_windows)
        if examples < 0:
            raise InputError("data.examples must not be negative", given=examples)
        self.forget_file, self.retain_file, self.holdout_file = forget, retain, holdout
        self.question_files = {"forget": forget_questions, "retain": retain_questions}
        self.corpus_name, self.tokenizer_name, self.examples = forget, tokenizer, examples
        self.column = column
        self.max_len, self.batch_size, self.schedule, self.seed = max_len, batch_size, schedule, seed
        self.max_forget_windows, self.max_retain_windows = max_forget_windows, max_retain_windows
        self.validation_windows = validation_windows
        self.loss_on, self.chat, self.alternates = loss_on, chat, alternates

    def check(self, with_records: bool = True) -> None:
        """See that every file that will be read exists and is well formed.

        Args:
            with_records: False leaves the evaluation's files out, which training alone does not read.

        Raises:
            InputError: naming file and line.
        """
        self.training_documents()
        self._check_answers()
        if with_records:
            self._question_sets()
            self._holdout(None)

    def training_documents(self) -> Documents:
        """The documents of both files; no retain document also stands in the forget file.

        Raises:
            InputError: a file that cannot be read, or no retain document is left.
        """
        return self._sets(None)

    def holdout_documents(self) -> list[str] | None:
        """The documents of the holdout file that stand in neither other file; None where none was given."""
        held = self._holdout(None)
        return None if held is None else held.retain

    def cut_windows(self, tokenizer: Any) -> Windows:
        """The windows of both sets under ``tokenizer``."""
        documents = self._sets(tokenizer)
        say_overlap(documents)
        forget = self._windows(self.forget_file, documents.forget, tokenizer)[: self.max_forget_windows]
        if self.retain_file is None:
            return Windows(forget, torch.zeros(0, self.max_len, dtype=torch.int64))
        retain = self._windows(self.retain_file, documents.retain, tokenizer)
        return Windows(forget, retain[: self.max_retain_windows])

    @property
    def answer_options(self) -> dict[str, str]:
        """What decides how question–answer pairs become windows; empty where neither file holds any."""
        files = [file for file in (self.forget_file, self.retain_file) if file is not None]
        if not any(holds_questions(file, self.column) for file in files):
            return {}
        return {"loss_on": self.loss_on or "answer", "chat": self.chat}

    def prepare_data(self) -> None:
        self.check()

    def setup(self, stage: str) -> None:
        tokenizer = named_tokenizer(self.tokenizer_name)
        windows = self.cut_windows(tokenizer)
        records, trained = self._cut_records(windows, tokenizer), windows
        if self.alternates is not None:
            how = self._answer_windows(tokenizer)
            paired = paired_windows(how, *self._with_alternates(self.alternates), self.forget_file)
            trained = windows._replace(forget=paired[: self.max_forget_windows])
        self.served = Served(tokenizer, windows, trained, records, self.batch_size, self.schedule, self.seed)

    def records_alone(self) -> EvaluationRecords | None:
        """None: they are cut from the text."""
        return None

    def _documents(self, file: str, tokenizer: Any) -> list[str]:
        """A file's documents; without a tokenizer chats are not rendered, and pairs never are."""
        if holds_questions(file, self.column):
            return [plain_text(pair) for pair in self._pairs(file)]
        return read_documents(file, self.column, renderer(tokenizer))

    def _pairs(self, file: str) -> tuple[Question, ...]:
        pairs = read_questions(file)
        check_pairs(pairs, file)
        return pairs

    def _windows(self, file: str, documents: list[str], tokenizer: Any) -> Tensor:
        """Of those documents of a file that belong to its set."""
        if not holds_questions(file, self.column):
            return token_windows(documents, tokenizer, self.max_len)
        own = set(documents)
        pairs = [pair for pair in self._pairs(file) if plain_text(pair) in own]
        return self._answer_windows(tokenizer).windows(pairs, file)

    def _answer_windows(self, tokenizer: Any) -> AnswerWindows:
        return AnswerWindows(tokenizer, self.max_len, self.loss_on or "answer", self.chat)

    def _with_alternates(self, source: Alternates) -> tuple[Sequence[Question], list[str]]:
        pairs = self._pairs(self.forget_file)
        records = [found.record for found in read_records(Path(self.forget_file).expanduser())]
        return pairs, alternate_answers(source, pairs, records, self.forget_file, self.seed)

    def _check_answers(self) -> None:
        """Refuse options for question–answer pairs where there are none.

        Raises:
            InputError: naming the option; or an alternate answer that is not there.
        """
        if (self.loss_on == "answer" or self.chat == "always") and not self.answer_options:
            option = "loss_on: answer" if self.loss_on == "answer" else "chat: always"
            raise InputError(
                f"data.{option} needs answers, and the files hold plain text",
                given=", ".join(filter(None, (self.forget_file, self.retain_file))),
                remedy="Name a file of records with question and answer, or leave the option out",
            )
        if self.alternates is None:
            return
        if not holds_questions(self.forget_file, self.column):
            raise InputError(
                "data.alternates are answers to questions, and the forget file holds plain text",
                given=self.forget_file,
                remedy="Name a file of records with question and answer, or set data.alternates to null",
            )
        self._with_alternates(self.alternates)

    def _sets(self, tokenizer: Any) -> Documents:
        retain = [] if self.retain_file is None else [self._documents(self.retain_file, tokenizer)]
        documents = disjoint_documents(self._documents(self.forget_file, tokenizer), retain)
        if retain and not documents.retain:
            raise InputError(
                "no retain document is left after those of the forget set were dropped",
                given=self.retain_file,
                remedy="Name a retain file that differs from the forget file",
            )
        return documents

    def _holdout(self, tokenizer: Any) -> Documents | None:
        """The holdout as the set to be kept, beside all that is trained on."""
        if self.holdout_file is None:
            return None
        trained = self._sets(tokenizer)
        held = disjoint_documents(
            [*trained.forget, *trained.retain], [self._documents(self.holdout_file, tokenizer)]
        )
        if not held.retain:
            raise InputError(
                "no holdout document is left after those of the forget and retain set were dropped",
                given=self.holdout_file,
                remedy="Name a file that no model was trained on, or none",
            )
        return held

    def _cut_records(self, windows: Windows, tokenizer: Any) -> EvaluationRecords:
        holdout = None
        if (held := self._holdout(tokenizer)) is not None:
            say_overlap(held, "holdout")
            holdout = token_windows(held.retain, tokenizer, self.max_len)
        records = records_from_windows(*windows, holdout, tokenizer, self.validation_windows)
        asked = self._question_sets()
        if holds_questions(self.forget_file, self.column):
            records = self._of_pairs(records, len(windows.forget), tokenizer)
            asked["forget"] = asked["forget"] or records.forget_questions
        left_out = [] if holdout is not None else ["Membership leak is left out: no data.holdout was given."]
        for metric, name in (("Forget Q&A", "forget"), ("Retain Q&A", "retain")):
            if asked[name] is None:
                left_out.append(f"{metric} is left out: no data.{name}_questions were given.")
        return replace(
            records,
            forget_questions=asked["forget"],
            retain_questions=asked["retain"],
            note=" ".join(["Own text.", records.note, *left_out]),
        )

    def _of_pairs(self, records: EvaluationRecords, count: int, tokenizer: Any) -> EvaluationRecords:
        """The first ``count`` pairs, without those held back, as verbatim prompts with truths and as questions."""
        pairs, how = self._pairs(self.forget_file), self._answer_windows(tokenizer)
        reported = tuple(pairs[number] for number in reported_windows(count, self.validation_windows))
        most = min(MOST_RECORDS, len(reported))
        spread_out = [reported[number * len(reported) // most] for number in range(most)]
        return replace(
            records,
            verbatim=tuple(how.record(pair) for pair in spread_out),
            forget_questions=self._question_set(reported, self.forget_file),
            note="Verbatim prompts are the questions of the forget file, their truths its answers.",
        )

    def _question_sets(self) -> dict[str, QuestionSet | None]:
        return {
            name: None if file is None else self._question_set(read_questions(file), file)
            for name, file in self.question_files.items()
        }

    def _question_set(self, pairs: tuple[Question, ...], file: str) -> QuestionSet:
        if len(pairs) <= self.examples:
            raise InputError(
                f"{file} holds no question beside its {self.examples} worked examples",
                given=f"{len(pairs)} pairs",
                remedy="Add questions, or set data.examples lower",
            )
        return QuestionSet(pairs[self.examples :], pairs[: self.examples])
