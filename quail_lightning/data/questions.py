"""The records that the evaluation reads: verbatim prompts, questions, membership texts, labelled texts, probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ChatUse = Literal["auto", "always", "never"]
"""Whether questions are put in the tokenizer's chat template: where it has one; or be refused without; or not."""


@dataclass(frozen=True)
class VerbatimPrompt:
    """The beginning of a forget text and its true continuation (MUSE ``verbmem``: ``prompt``, ``gt``).

    Attributes:
        prompt: to be continued.
        truth: how it goes on.
        stops: where the text ends for a model that goes on with another one; the response counts up to the first
            of them. MUSE has none.
    """

    prompt: str
    truth: str
    stops: tuple[str, ...] = ()


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
class LabelledTexts:
    """Texts of two classes, and the words that say which.

    Attributes:
        prompts: each ends where the class is to be named.
        labels: 0 or 1, of each.
        verbalizers: what stands after a prompt of class 0, and of class 1.
    """

    prompts: tuple[str, ...]
    labels: tuple[int, ...]
    verbalizers: tuple[str, str]


@dataclass(frozen=True)
class Probe:
    """A question as it is put to the model, and its answer (RWKU)."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with right and wrong answers (TOFU, own questions).

    Attributes:
        question: as it is put.
        answer: the true one.
        paraphrase: the same in other words; None: there is none, and the answer itself counts.
        wrong: answers of the same form that are not true; of TOFU's at least one.
    """

    question: str
    answer: str
    paraphrase: str | None
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class AnswerSets:
    """Answered questions of several sets.

    Attributes:
        sets: ``forget``, ``retain``, ``real_authors``, ``world_facts`` → their questions; those that there are.
        chat: how they are put to the model.
        choices: whether the likeliest of right and wrong answers is asked for as well.
    """

    sets: Mapping[str, tuple[AnsweredQuestion, ...]]
    chat: ChatUse = "auto"
    choices: bool = False


@dataclass(frozen=True)
class EvaluationRecords:
    """All records of one corpus. A part that a corpus does not have is None, and its metrics are not run.

    Attributes:
        verbatim: M1.
        forget_questions: M2.
        membership: M3.
        retain_questions: M4.
        forget_labels, retain_labels: classification (Twitter misinformation).
        probes: metric name → probes, scored by ROUGE-L recall (RWKU).
        answers: questions with right and wrong answers (TOFU, own questions).
        recited: texts whose continuation is compared token by token, prompt and truth joined as they stand.
        note: where the records depart from the published ones, for the results; empty where they do not.
    """

    verbatim: tuple[VerbatimPrompt, ...] | None = None
    forget_questions: QuestionSet | None = None
    membership: MembershipTexts | None = None
    retain_questions: QuestionSet | None = None
    forget_labels: LabelledTexts | None = None
    retain_labels: LabelledTexts | None = None
    probes: Mapping[str, tuple[Probe, ...]] | None = None
    answers: AnswerSets | None = None
    recited: tuple[VerbatimPrompt, ...] | None = None
    note: str = ""
