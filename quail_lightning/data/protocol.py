"""What a DataModule promises to whoever trains, evaluates and describes models with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.data.served import Served
from quail_lightning.data.sets import Documents, Windows
from quail_lightning.errors import InputError, lacks

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@runtime_checkable
class TextData(Protocol):
    """The text of the two sets, for fine-tuning a target or a retrained model and for calibrating.

    Attributes:
        corpus_name: where it came from, for the provenance.
        max_len: tokens a window, BOS included.
        max_forget_windows: the first so many windows of the forget set are used; None: all.
        max_retain_windows: likewise of the retain set.
    """

    corpus_name: str
    max_len: int
    max_forget_windows: int | None
    max_retain_windows: int | None

    def check(self, with_records: bool = True) -> None:
        """Read whatever will be read, and refuse what is missing or malformed.

        Args:
            with_records: False leaves out what only the evaluation reads.

        Raises:
            InputError: naming it.
        """

    def training_documents(self) -> Documents:
        """The documents of both sets; no retain document also stands in the forget set."""

    def holdout_documents(self) -> list[str] | None:
        """Documents of a like text that no model was trained on, for the provenance; None where there are none.

        Raises:
            InputError: they cannot be read; training alone does without.
        """

    def cut_windows(self, tokenizer: Any) -> Windows:
        """Their windows under a tokenizer, [n, max_len] each."""


@runtime_checkable
class UnlearningData(TextData, Protocol):
    """The two sets, their steps and the evaluation's records.

    Attributes:
        batch_size: windows of each kind in one optimizer step, a process.
        seed: of the windows' order.
        served: windows, records and loaders; there after ``setup``.
    """

    batch_size: int
    seed: int
    served: Served

    def setup(self, stage: str) -> None:
        """Fill ``served``; Lightning calls it in every process.

        Raises:
            InputError: whatever ``check`` refuses.
        """

    def records_alone(self) -> EvaluationRecords | None:
        """The records, where they need neither ``setup`` nor the training text; else None."""


def data_of(trainer: Trainer) -> UnlearningData:
    """The Trainer's DataModule, which is set up.

    Raises:
        InputError: it does not keep the protocol; with what it lacks.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it when it starts
    if not isinstance(data, UnlearningData):
        raise InputError(
            f"{type(data).__name__} is no data to unlearn with: it lacks {', '.join(lacks(data, UnlearningData))}",
            allowed="a DataModule that keeps quail_lightning.data.protocol.UnlearningData",
        )
    return data
