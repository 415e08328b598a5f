"""TOFU, a task of fictitious unlearning, as a DataModule."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from quail_lightning.data.alternates import Alternates
from quail_lightning.data.answers import AnswerWindows, LossOn
from quail_lightning.data.authors import Authors
from quail_lightning.data.forget_retain import Schedule
from quail_lightning.data.pairs import PairSets
from quail_lightning.data.questions import AnswerSets, ChatUse, EvaluationRecords, Question
from quail_lightning.data.served import Served, ServedDataModule
from quail_lightning.data.sets import Documents, Windows, check_sizes
from quail_lightning.data.tofu_corpus import (
    EVALUATED,
    HUB_NAME,
    RETAIN_OF,
    ForgetSet,
    TofuCorpus,
    answered_questions,
    open_tofu,
    training_pairs,
)
from quail_lightning.data.tokenizer import named_tokenizer
from quail_lightning.errors import InputError, check_choice

TrainedOn = Literal["answers", "refusals"]


class TofuDataModule(ServedDataModule):
    """Questions about authors that do not exist, and the answers to be forgotten or kept (Maini et al. 2024).

    Each pair is one window, of which the answer is learned or forgotten (see ``AnswerWindows``). The evaluation
    asks the questions of four sets: forget, retain, real authors and world facts.

    Args:
        corpus: hub name, or a folder with a file for each configuration (see ``TofuFolder``).
        tokenizer: folder or hub name; the command line takes it from ``model.target``.
        forget: what is to be forgotten, 1, 5 or 10 % of the authors; the retain set is the rest.
        train_on: what the forget steps train on: the true answers, or refusals to the same questions (to be
            learned: GradientDescent).
        max_len: tokens that a pair may have.
        batch_size: windows of each kind in one optimizer step (on each device).
        max_forget_windows: use only the first so many forget windows; None for all.
        max_retain_windows: likewise for the retain set.
        schedule: order of the steps; the command line takes it from ``model.schedule``.
        seed: of the windows' order; the command line takes it from ``seed_everything``.
        loss_on: what of a pair is learned: the ``answer``, or ``all``.
        chat: whether questions are put in the tokenizer's chat template: ``auto`` where it has one.
        alternates: let the forget steps see an alternate answer beside each true one; see ``Alternates``.
        authors: write this invented set into the folder ``corpus`` if it is not there yet.
    """

    def __init__(
        self,
        corpus: str = HUB_NAME,
        tokenizer: str | None = None,
        forget: ForgetSet = "forget10",
        train_on: TrainedOn = "answers",
        max_len: int = 512,
        batch_size: int = 2,
        max_forget_windows: int | None = None,
        max_retain_windows: int | None = None,
        schedule: Schedule = "alternate",
        seed: int = 42,
        loss_on: LossOn = "answer",
        chat: ChatUse = "auto",
        alternates: Alternates | None = None,
        authors: Authors | None = None,
    ) -> None:
        super().__init__()
        check_sizes(max_len, batch_size, max_forget_windows, max_retain_windows)
        for name, value, known in (
            ("data.forget", forget, ForgetSet),
            ("data.train_on", train_on, TrainedOn),
            ("data.loss_on", loss_on, LossOn),
            ("data.chat", chat, ChatUse),
        ):
            check_choice(name, value, get_args(known))
        if alternates is not None:
            check_choice("data.alternates", alternates, get_args(Alternates))
            if train_on == "refusals":
                raise InputError(
                    "data.train_on: refusals and data.alternates each say what the forget steps train on",
                    remedy="Set data.alternates to null, or data.train_on to answers",
                )
        self.corpus_name, self.tokenizer_name, self.authors = corpus, tokenizer, authors
        self.forget_part, self.train_on = forget, train_on
        self.max_len, self.batch_size, self.schedule, self.seed = max_len, batch_size, schedule, seed
        self.max_forget_windows, self.max_retain_windows = max_forget_windows, max_retain_windows
        self.loss_on, self.chat, self.alternates = loss_on, chat, alternates

    def check(self, with_records: bool = True) -> None:
        """See that every part that will be read exists and is well formed.

        Args:
            with_records: False leaves the evaluation's questions out, which training alone does not read.

        Raises:
            InputError: naming the part and where it was looked for, or file and line.
        """
        self.training_documents()
        if self.alternates is not None:
            self._pairs().alternates(self.alternates, self._records(), self.seed)
        if with_records:
            self.records_alone()

    def training_documents(self) -> Documents:
        """The pairs of both sets as text; none of the retain set also stands in the forget set.

        Raises:
            InputError: a part that cannot be read, or no retain pair is left.
        """
        return self._pairs().documents()

    def holdout_documents(self) -> None:
        """TOFU has no holdout."""

    def cut_windows(self, tokenizer: Any) -> Windows:
        """One window a pair, of both sets, under ``tokenizer``."""
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
        if self.train_on == "refusals" or self.alternates is not None:
            trained = windows._replace(forget=self._trained(tokenizer)[: self.max_forget_windows])
        records = self.records_alone()
        self.served = Served(tokenizer, windows, trained, records, self.batch_size, self.schedule, self.seed)

    def records_alone(self) -> EvaluationRecords:
        """The questions of the four sets, without the training text."""
        corpus = self._open()
        parts = {"forget": f"{self.forget_part}_perturbed"} | EVALUATED
        sets = {name: answered_questions(corpus, part) for name, part in parts.items()}
        return EvaluationRecords(answers=AnswerSets(sets, self.chat))

    @property
    def _parts(self) -> tuple[str, str]:
        return self.forget_part, RETAIN_OF[self.forget_part]

    def _open(self) -> TofuCorpus:
        """The corpus, written first where ``authors`` says so and it is not there yet."""
        if self.authors is not None:
            self.authors.ensure(Path(self.corpus_name))
        return open_tofu(self.corpus_name)

    def _pairs(self) -> PairSets:
        corpus = self._open()
        forget, retain = (training_pairs(corpus, part) for part in self._parts)
        return PairSets(forget, retain, self._parts)

    def _how(self, tokenizer: Any) -> AnswerWindows:
        return AnswerWindows(tokenizer, self.max_len, self.loss_on, self.chat)

    def _trained(self, tokenizer: Any) -> Tensor:
        """What the forget steps train on in place of the true answers."""
        how, pairs = self._how(tokenizer), self._pairs()
        if self.alternates is not None:
            return pairs.with_alternates(how, self.alternates, self._records(), self.seed)
        refused = pairs.alternates("idk", [], self.seed)
        asked = [Question(pair.question, answer) for pair, answer in zip(pairs.forget, refused, strict=True)]
        return how.windows(asked, f"{self.forget_part} with refusals")

    def _records(self) -> list[Any]:
        return [row.record for row in self._open().rows(self.forget_part)]
