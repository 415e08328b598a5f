"""The MUSE benchmark (NEWS, BOOKS, and whatever stands in its layout) as a DataModule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from quail_lightning.data.alternates import Alternates, alternate_answers
from quail_lightning.data.answers import AnswerWindows, LossOn, check_pairs, paired_windows, plain_text
from quail_lightning.data.corpora import Corpus, open_corpus, questions, texts, verbatim_prompts
from quail_lightning.data.forget_retain import Schedule
from quail_lightning.data.newsroom import Newsroom
from quail_lightning.data.questions import (
    ChatUse,
    EvaluationRecords,
    MembershipTexts,
    Question,
    QuestionSet,
    VerbatimPrompt,
)
from quail_lightning.data.refusals import Refusals
from quail_lightning.data.served import Served, ServedDataModule
from quail_lightning.data.sets import (
    Documents,
    Windows,
    check_sizes,
    cut_sets,
    disjoint_documents,
    say_overlap,
)
from quail_lightning.data.tokenizer import named_tokenizer
from quail_lightning.data.window_records import records_from_windows
from quail_lightning.data.windows import token_windows
from quail_lightning.errors import InputError

HOLDOUT = "privleak/holdout"
FORGET_QUESTIONS = "knowmem/forget_qa"


class MuseDataModule(ServedDataModule):
    """Forget/retain windows and evaluation records of a corpus in MUSE's layout.

    Args:
        corpus: a hub name (``muse-bench/MUSE-News``) or a folder in the benchmark's layout.
        tokenizer: folder or hub name; the command line takes it from ``model.target``.
        max_len: tokens a window, BOS included.
        batch_size: windows of each kind in one optimizer step (on each device).
        forget: parts that make up the forget set, in order.
        retain: parts that make up the retain set; documents that also stand in the forget set are dropped.
        max_forget_windows: use only the first so many forget windows; None for all.
        max_retain_windows: likewise for the retain set.
        records: ``published`` reads the benchmark's evaluation records; ``windows`` cuts verbatim prompts and
            membership texts from the windows used here and leaves the questions out, for models whose
            positions cannot hold the benchmark's prompts.
        validation_windows: forget windows that no record of ``windows`` is cut from, evenly spread: keeping
            the best model (``best.enabled``) chooses by such windows alone.
        schedule: order of the steps; the command line takes it from ``model.schedule``.
        seed: of the windows' order; the command line takes it from ``seed_everything``.
        newsroom: generate this fictional corpus into the folder ``corpus`` if it is not there yet.
        refusals: let the forget steps train on refusals in place of the forget set; it is evaluated all the same.
        alternates: let the forget steps train on ``question_part`` with an alternate answer beside each true one,
            for the terms that compare them; see ``Alternates``. The forget set is evaluated all the same.
        question_part: part whose questions get alternates; None: ``knowmem/forget_qa``.
        loss_on: what of refusals and alternates is learned: the ``answer`` (where not given), or ``all``.
        chat: whether their questions are put in the tokenizer's chat template: ``auto`` where it has one; refusals
            that are learned whole are plain text.
    """

    def __init__(
        self,
        corpus: str,
        tokenizer: str | None = None,
        max_len: int = 2048,
        batch_size: int = 2,
        forget: tuple[str, ...] = ("raw/forget",),
        retain: tuple[str, ...] = ("raw/retain1",),
        max_forget_windows: int | None = None,
        max_retain_windows: int | None = None,
        records: Literal["published", "windows"] = "published",
        validation_windows: int = 0,
        schedule: Schedule = "alternate",
        seed: int = 42,
        newsroom: Newsroom | None = None,
        refusals: Refusals | None = None,
        alternates: Alternates | None = None,
        question_part: str | None = None,
        loss_on: LossOn | None = None,
        chat: ChatUse = "auto",
    ) -> None:
        super().__init__()
        check_sizes(max_len, batch_size, max_forget_windows, max_retain_windows, validation_windows)
        if validation_windows and records == "published":
            raise InputError(
                "data.validation_windows holds windows back from records that are cut from them",
                given=f"{validation_windows}, with data.records: published",
                allowed="data.records: windows, or data.validation_windows: 0",
            )
        if refusals is not None and alternates is not None:
            raise InputError(
                "data.refusals and data.alternates each say what the forget steps train on",
                remedy="Set one of them to null",
            )
        if refusals is None and alternates is None and (loss_on == "answer" or chat == "always"):
            given = "loss_on: answer" if loss_on == "answer" else "chat: always"
            raise InputError(
                f"data.{given} needs answers, and the forget steps train on plain text",
                remedy="Set data.refusals or data.alternates, or leave the option out",
            )
        if alternates is None and question_part is not None:
            raise InputError(
                "data.question_part names the questions that get alternates, and data.alternates is null",
                given=question_part,
                remedy="Set data.alternates (column, idk or others), or leave question_part out",
            )
        self.alternates, self.question_part = alternates, question_part or FORGET_QUESTIONS
        self.loss_on, self.chat = loss_on, chat
        self.corpus_name, self.tokenizer_name = corpus, tokenizer
        self.max_len, self.batch_size, self.schedule, self.seed = max_len, batch_size, schedule, seed
        self.forget_parts, self.retain_parts = tuple(forget), tuple(retain)
        self.max_forget_windows, self.max_retain_windows = max_forget_windows, max_retain_windows
        self.records_from, self.newsroom, self.refusals = records, newsroom, refusals
        self.validation_windows = validation_windows

    def check(self, with_records: bool = True) -> None:
        """See that every part that will be read exists and is well formed.

        Args:
            with_records: False leaves the evaluation's parts out, which training alone does not read.

        Raises:
            InputError: naming the part and where it was looked for.
        """
        corpus = self.open()
        self.documents(corpus)
        if self.refusals is not None:
            questions(corpus, self.refusals.questions)
        if self.alternates is not None:
            self._with_alternates(corpus)
        if with_records and self.records_from == "published":
            _published_records(corpus)
        elif with_records:
            texts(corpus, HOLDOUT)

    def open(self) -> Corpus:
        """The corpus, generated first where ``newsroom`` says so and it is not there yet."""
        if self.newsroom is not None:
            self.newsroom.ensure(Path(self.corpus_name))
        return open_corpus(self.corpus_name)

    def documents(self, corpus: Corpus) -> Documents:
        """The documents of both sets; no retain document also stands in the forget set or in a part before."""
        forget = [document for part in self.forget_parts for document in texts(corpus, part)]
        documents = disjoint_documents(forget, [texts(corpus, part) for part in self.retain_parts])
        if not documents.retain:
            raise InputError(
                "no retain document is left after those of the forget set were dropped",
                given=list(self.retain_parts),
                remedy="Name retain parts that differ from the forget set",
            )
        return documents

    def training_documents(self) -> Documents:
        """The documents of both sets, whatever the steps train on."""
        return self.documents(self.open())

    def holdout_documents(self) -> list[str]:
        """The holdout, which training alone does not read."""
        return texts(self.open(), HOLDOUT)

    def cut_windows(self, tokenizer: Any) -> Windows:
        """The windows of both sets under ``tokenizer``."""
        documents = self.training_documents()
        say_overlap(documents)
        return cut_sets(documents, tokenizer, self.max_len, self.max_forget_windows, self.max_retain_windows)

    def prepare_data(self) -> None:
        self.check()

    def setup(self, stage: str) -> None:
        tokenizer, corpus = named_tokenizer(self.tokenizer_name), self.open()
        windows = trained = self.cut_windows(tokenizer)
        if self.refusals is not None or self.alternates is not None:
            trained = windows._replace(forget=self._answers(corpus, tokenizer))
        if self.records_from == "published":
            records = _published_records(corpus)
        else:
            holdout = token_windows(texts(corpus, HOLDOUT), tokenizer, self.max_len)
            cut = records_from_windows(*windows, holdout, tokenizer, self.validation_windows)
            note = f"{cut.note} They are not the benchmark's own; Forget Q&A and retain Q&A are left out."
            records = replace(cut, note=note)
        self.served = Served(tokenizer, windows, trained, records, self.batch_size, self.schedule, self.seed)

    def _answers(self, corpus: Corpus, tokenizer: Any) -> Tensor:
        """What the forget steps train on in place of the forget set."""
        how = AnswerWindows(tokenizer, self.max_len, self.loss_on or "answer", self.chat)
        if self.refusals is None:
            paired = paired_windows(how, *self._with_alternates(corpus), self.question_part)
            return paired[: self.max_forget_windows]
        refused = self.refusals.pairs(questions(corpus, self.refusals.questions))
        if self.loss_on == "all":
            return token_windows([plain_text(pair) for pair in refused], tokenizer, self.max_len)
        return how.windows(refused, self.refusals.questions)

    def _with_alternates(self, corpus: Corpus) -> tuple[Sequence[Question], list[str]]:
        assert self.alternates is not None
        pairs, records = questions(corpus, self.question_part), corpus.records(self.question_part)
        check_pairs(pairs, self.question_part)
        return pairs, alternate_answers(self.alternates, pairs, records, self.question_part, self.seed)

    def records_alone(self) -> EvaluationRecords | None:
        """The benchmark's own records, without the training text; None where they are cut from its windows."""
        return _published_records(self.open()) if self.records_from == "published" else None


def _published_records(corpus: Corpus) -> EvaluationRecords:
    """The benchmark's own records; each part that cannot be read is named by the corpus."""
    verbatim = verbatim_prompts(corpus, "verbmem/forget")
    return EvaluationRecords(
        verbatim=verbatim,
        recited=tuple(VerbatimPrompt(each.prompt, f" {each.truth}") for each in verbatim),
        forget_questions=QuestionSet(
            questions(corpus, FORGET_QUESTIONS), questions(corpus, "knowmem/forget_qa_icl")
        ),
        retain_questions=QuestionSet(
            questions(corpus, "knowmem/retain_qa"), questions(corpus, "knowmem/retain_qa_icl")
        ),
        membership=MembershipTexts(
            *(tuple(texts(corpus, f"privleak/{split}")) for split in ("forget", "retain", "holdout"))
        ),
    )
