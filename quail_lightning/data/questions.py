"""The records that the evaluation reads: verbatim prompts, questions, membership texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VerbatimPrompt:
    """The beginning of a forget text and its true continuation (MUSE ``verbmem``: ``prompt``, ``gt``)."""

    prompt: str
    truth: str


@dataclass(frozen=True)
class Question:
    """One question with its reference answer (MUSE ``knowmem``)."""

    question: str
    answer: str


@dataclass(frozen=True)
class QuestionSet:
    """Questions and the ten worked pairs that stand before each of them."""

    questions: tuple[Question, ...]
    examples: tuple[Question, ...]


@dataclass(frozen=True)
class MembershipTexts:
    """Texts of the membership attack (MUSE ``privleak``)."""

    forget: tuple[str, ...]
    retain: tuple[str, ...]
    holdout: tuple[str, ...]


@dataclass(frozen=True)
class EvaluationRecords:
    """All records of one corpus. A part that a corpus does not have is None, and its metrics are not run.

    Attributes:
        verbatim: M1.
        forget_questions: M2.
        membership: M3.
        retain_questions: M4.
        note: where the records depart from the published ones, for the results; empty where they do not.
    """

    verbatim: tuple[VerbatimPrompt, ...] | None = None
    forget_questions: QuestionSet | None = None
    membership: MembershipTexts | None = None
    retain_questions: QuestionSet | None = None
    note: str = ""
