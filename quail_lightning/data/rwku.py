"""RWKU, real-world knowledge unlearning, as a DataModule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from quail_lightning.data.forget_retain import Schedule
from quail_lightning.data.located import shape_of
from quail_lightning.data.questions import EvaluationRecords, Probe
from quail_lightning.data.rwku_corpus import HUB_NAME, Generator, Row, open_rwku
from quail_lightning.data.rwku_prompts import dialogue, probe_prompt
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
from quail_lightning.data.windows import token_windows
from quail_lightning.errors import InputError

FORGET_PARTS = {"rwku_fb": "forget_level1", "rwku_qa": "forget_level2", "rwku_aa": "forget_level3"}
NEIGHBOR_PARTS = {"rwku_neighbor_fb": "neighbor_level1", "rwku_neighbor_qa": "neighbor_level2"}


class RwkuDataModule(ServedDataModule):
    """Forget corpora about people, and the probes that ask what is still known of them (Jin et al. 2024).

    The forget set is the positive corpus: what a model wrote about the subjects. Steps train on it (GA, NPO), on
    refusals (RT) or on the negative corpus, false descriptions of the subjects (to be learned: GradientDescent);
    NLLs are of the positive one in any case. RWKU has no retain corpus: name other subjects where the method has a
    retain term.

    Args:
        corpus: hub name, or a folder: a subject's files, ``All/`` or ``Target/<number>_<Subject>/``.
        tokenizer: folder or hub name; the command line takes it from ``model.target``.
        subjects: who is to be forgotten.
        train_on: what the forget steps train on.
        generator: the model that wrote the training corpora.
        retain_subjects: people whose positive corpus is the retain set.
        neighbors: also ask the probes about what is close to the subjects and must be kept.
        chat: put the tokenizer's chat template around probes and refusals, if it has one, as RWKU does.
        max_len: tokens a window, BOS included.
        batch_size: windows of each kind in one optimizer step (on each device).
        max_forget_windows: use only the first so many forget windows; None for all.
        max_retain_windows: likewise for the retain set.
        schedule: order of the steps; the command line takes it from ``model.schedule``.
        seed: of the windows' order; the command line takes it from ``seed_everything``.
    """

    def __init__(
        self,
        corpus: str = HUB_NAME,
        tokenizer: str | None = None,
        subjects: tuple[str, ...] = ("Stephen King",),
        train_on: Literal["positive", "negative", "refusal"] = "positive",
        generator: Generator = "llama3",
        retain_subjects: tuple[str, ...] = (),
        neighbors: bool = True,
        chat: bool = True,
        max_len: int = 512,
        batch_size: int = 2,
        max_forget_windows: int | None = None,
        max_retain_windows: int | None = None,
        schedule: Schedule = "alternate",
        seed: int = 42,
    ) -> None:
        super().__init__()
        check_sizes(max_len, batch_size, max_forget_windows, max_retain_windows)
        if not subjects:
            raise InputError("data.subjects names nobody", remedy="Name at least one of RWKU's 200 people")
        if both := set(subjects) & set(retain_subjects):
            raise InputError("data.subjects and data.retain_subjects share a name", given=sorted(both))
        self.corpus_name, self.tokenizer_name = corpus, tokenizer
        self.subjects, self.retain_subjects = tuple(subjects), tuple(retain_subjects)
        self.train_on, self.generator, self.neighbors, self.chat = train_on, generator, neighbors, chat
        self.max_len, self.batch_size, self.schedule, self.seed = max_len, batch_size, schedule, seed
        self.max_forget_windows, self.max_retain_windows = max_forget_windows, max_retain_windows

    def check(self, with_records: bool = True) -> None:
        """See that every part that will be read exists and is well formed.

        Args:
            with_records: False leaves the probes out, which training alone does not read.

        Raises:
            InputError: naming the part and where it was looked for.
        """
        self.training_documents()
        if self.train_on != "positive":
            self._steps_texts(None)
        if with_records:
            self._probes(None)

    def training_documents(self) -> Documents:
        """The positive corpus of the subjects, and of those to be kept."""
        return disjoint_documents(
            self._texts("positive", self.subjects),
            [self._texts("positive", self.retain_subjects)] if self.retain_subjects else [],
        )

    def holdout_documents(self) -> None:
        """RWKU has no holdout."""

    def cut_windows(self, tokenizer: Any) -> Windows:
        """The windows of both sets under ``tokenizer``."""
        limits = (self.max_forget_windows, self.max_retain_windows)
        documents = self.training_documents()
        say_overlap(documents)
        return cut_sets(documents, tokenizer, self.max_len, *limits)

    def prepare_data(self) -> None:
        self.check()

    def setup(self, stage: str) -> None:
        tokenizer = named_tokenizer(self.tokenizer_name)
        windows = trained = self.cut_windows(tokenizer)
        if self.train_on != "positive":
            steps = token_windows(self._steps_texts(tokenizer), tokenizer, self.max_len)
            trained = Windows(steps[: self.max_forget_windows], windows.retain)
        records = self._records(tokenizer)
        self.served = Served(tokenizer, windows, trained, records, self.batch_size, self.schedule, self.seed)

    def records_alone(self) -> EvaluationRecords | None:
        """The probes, without the training corpora."""
        return self._records(named_tokenizer(self.tokenizer_name))

    def _records(self, tokenizer: Any) -> EvaluationRecords:
        """The probes alone, in the chat template of the tokenizer if it has one."""
        about = f"RWKU, {len(self.subjects)} of 200 subjects: {', '.join(self.subjects)}."
        return EvaluationRecords(probes=self._probes(tokenizer), note=about)

    def _texts(self, part: str, subjects: Sequence[str]) -> list[str]:
        rows = open_rwku(self.corpus_name).training(part, self.generator, subjects)
        return [_string(row, "text", part) for row in rows]

    def _steps_texts(self, tokenizer: Any) -> list[str]:
        """What the forget steps train on in place of the positive corpus; without a tokenizer no chat template."""
        if self.train_on == "negative":
            return self._texts("negative", self.subjects)
        rows = open_rwku(self.corpus_name).training("refusal", self.generator, self.subjects)
        pairs = [(_string(row, "instruction", "refusal"), _string(row, "output", "refusal")) for row in rows]
        return [dialogue(question, answer, tokenizer if self.chat else None) for question, answer in pairs]

    def _probes(self, tokenizer: Any) -> dict[str, tuple[Probe, ...]]:
        """Metric → its probes; without a tokenizer no chat template."""
        corpus = open_rwku(self.corpus_name)
        parts = FORGET_PARTS | NEIGHBOR_PARTS if self.neighbors else FORGET_PARTS
        return {
            metric: tuple(
                Probe(
                    probe_prompt(
                        _string(row, "query", part), metric, str(row.get("type")), tokenizer if self.chat else None
                    ),
                    _string(row, "answer", part),
                )
                for row in corpus.probes(part, self.subjects)
            )
            for metric, part in parts.items()
        }


def _string(row: Row, column: str, part: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise InputError(
            f"a row of RWKU's {part} has no string {column!r}",
            given=shape_of(row),
            remedy=f"Point data.corpus at {HUB_NAME} or at a copy of it, {Path('Target')} and all",
        )
    return value
