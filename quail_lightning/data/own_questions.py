"""A user's own questions and answers as a DataModule."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from quail_lightning.data.alternates import Alternates
from quail_lightning.data.answers import AnswerWindows, LossOn
from quail_lightning.data.forget_retain import Schedule
from quail_lightning.data.pairs import PairSets
from quail_lightning.data.question_files import Placed, check_apart, check_enough, read_answered
from quail_lightning.data.questions import AnsweredQuestion, AnswerSets, ChatUse, EvaluationRecords, Question
from quail_lightning.data.served import Served, ServedDataModule
from quail_lightning.data.sets import Documents, Windows, check_sizes
from quail_lightning.data.text_files import read_records
from quail_lightning.data.tokenizer import named_tokenizer
from quail_lightning.errors import check_choice


class OwnQuestionsDataModule(ServedDataModule):
    """Two files of questions: the answers to one are to be forgotten, those to the other kept.

    Each question is one window, of which the answer is learned or forgotten (see ``AnswerWindows``). The
    evaluation asks it for a free answer, for the probability of the right one and, where it has ``wrong`` answers,
    for the truth ratio and for the likeliest of all. ``read_answered`` says what a file holds.

    Args:
        forget: file of the questions whose answers are to be forgotten.
        retain: file of those to be kept; no question may stand in both.
        tokenizer: folder or hub name; the command line takes it from ``model.target``.
        max_len: tokens that a question with its answer may have.
        batch_size: windows of each kind in one optimizer step (on each device).
        max_forget_windows: train on the first so many questions of the forget file alone; None for all.
        max_retain_windows: likewise of the retain file.
        schedule: order of the steps; the command line takes it from ``model.schedule``.
        seed: of the windows' order; the command line takes it from ``seed_everything``.
        loss_on: what of a pair is learned: the ``answer``, or ``all``.
        chat: whether questions are put in the tokenizer's chat template: ``auto`` where it has one.
        alternates: let the forget steps see an alternate answer beside each true one; see ``Alternates``.
    """

    def __init__(
        self,
        forget: str,
        retain: str,
        tokenizer: str | None = None,
        max_len: int = 512,
        batch_size: int = 2,
        max_forget_windows: int | None = None,
        max_retain_windows: int | None = None,
        schedule: Schedule = "alternate",
        seed: int = 42,
        loss_on: LossOn = "answer",
        chat: ChatUse = "auto",
        alternates: Alternates | None = None,
    ) -> None:
        super().__init__()
        check_sizes(max_len, batch_size, max_forget_windows, max_retain_windows)
        check_choice("data.loss_on", loss_on, get_args(LossOn))
        check_choice("data.chat", chat, get_args(ChatUse))
        if alternates is not None:
            check_choice("data.alternates", alternates, get_args(Alternates))
        self.forget_file, self.retain_file = forget, retain
        self.corpus_name, self.tokenizer_name = forget, tokenizer
        self.max_len, self.batch_size, self.schedule, self.seed = max_len, batch_size, schedule, seed
        self.max_forget_windows, self.max_retain_windows = max_forget_windows, max_retain_windows
        self.loss_on, self.chat, self.alternates = loss_on, chat, alternates

    def check(self, with_records: bool = True) -> None:
        """See that both files are well formed, and that no question stands in both.

        Args:
            with_records: False also takes a file of a single question, of which the evaluation has no interval.

        Raises:
            InputError: naming file and line.
        """
        self.training_documents()
        if self.alternates is not None:
            self._pairs().alternates(self.alternates, self._forget_records(), self.seed)
        if with_records:
            self.records_alone()

    def training_documents(self) -> Documents:
        """The pairs of both files as text.

        Raises:
            InputError: a file that cannot be read, or a question that stands in both.
        """
        return self._pairs().documents()

    def holdout_documents(self) -> None:
        """There is none."""

    def cut_windows(self, tokenizer: Any) -> Windows:
        """One window a question, of both files, under ``tokenizer``."""
        most = (self.max_forget_windows, self.max_retain_windows)
        return self._pairs().windows(self._how(tokenizer), *most)

    @property
    def answer_options(self) -> dict[str, str]:
        """What decides how pairs become windows, for the provenance."""
        return {"loss_on": self.loss_on, "chat": self.chat}

    def prepare_data(self) -> None:
        self.check()

    def setup(self, stage: str) -> None:
        tokenizer = named_tokenizer(self.tokenizer_name)
        windows = trained = self.cut_windows(tokenizer)
        if self.alternates is not None:
            read, how = self._forget_records(), self._how(tokenizer)
            paired = self._pairs().with_alternates(how, self.alternates, read, self.seed)
            trained = windows._replace(forget=paired[: self.max_forget_windows])
        records = self.records_alone()
        self.served = Served(tokenizer, windows, trained, records, self.batch_size, self.schedule, self.seed)

    def records_alone(self) -> EvaluationRecords:
        """The questions of both files, and how many of them have wrong answers."""
        sets, said = {}, []
        for name, file, questions in zip(("forget", "retain"), self._names, self._read(), strict=True):
            check_enough(questions, file)
            sets[name] = tuple(asked for _, asked in questions)
            said.append(_counted(name.capitalize(), sets[name]))
        return EvaluationRecords(
            answers=AnswerSets(sets, self.chat, choices=True), note=" ".join(["Own questions.", *said])
        )

    @property
    def _names(self) -> tuple[str, str]:
        return self.forget_file, self.retain_file

    def _read(self) -> tuple[Placed, Placed]:
        forget, retain = (read_answered(Path(file).expanduser()) for file in self._names)
        check_apart(forget, retain)
        return forget, retain

    def _pairs(self) -> PairSets:
        forget, retain = (
            tuple(Question(asked.question, asked.answer) for _, asked in each) for each in self._read()
        )
        return PairSets(forget, retain, self._names)

    def _forget_records(self) -> list[Any]:
        return [found.record for found in read_records(Path(self.forget_file).expanduser())]

    def _how(self, tokenizer: Any) -> AnswerWindows:
        return AnswerWindows(tokenizer, self.max_len, self.loss_on, self.chat)


def _counted(name: str, questions: tuple[AnsweredQuestion, ...]) -> str:
    """How many questions there are, and of which the truth ratio and the accuracy are."""
    choices = [asked for asked in questions if asked.wrong]
    if not choices:
        return f"{name}: {len(questions)} questions, none with wrong answers, so no truth ratio and no accuracy."
    guessed = fmean(1 / (1 + len(asked.wrong)) for asked in choices)
    of = "truth ratio and accuracy are of those, and guessing gives"
    return f"{name}: {len(questions)} questions, {len(choices)} with wrong answers ({of} {guessed:.2f})."
