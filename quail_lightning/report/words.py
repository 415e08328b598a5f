"""A verdict in plain words, for a reader who knows neither the metrics nor the formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Tone = Literal["good", "mixed", "bad", "unknown"]
Verdicts = Mapping[str, Mapping[str, str]]  # precision → question → answer

QUESTIONS = {
    "known": "Known before?",
    "forgotten": "Forgotten at 16 bits?",
    "survives": "Still forgotten in this format?",
    "over_forgotten": "Over-forgotten?",
    "utility": "Utility kept?",
}
"""Field of a verdict → heading."""

MEANINGS = {
    "known": "Whether the model knew the text better than one that was never trained on it.",
    "forgotten": "Whether what it knew is gone before the model is quantized: “yes” where the whole 95 % interval "
    "lies above 80 % of the way to the model that was never trained on the text.",
    "survives": "Whether it is still gone in the format that is deployed: “yes” where the whole interval of what "
    "came back lies below 20 %.",
    "over_forgotten": "Whether an outsider can see that something was removed, because the model does worse on "
    "the text than one that was never trained on it. Here “no” is good.",
    "utility": "Whether the model still does what it is kept for: “yes” where the whole interval lies above 80 % "
    "of the target's.",
}
"""Field of a verdict → what is asked; the limits are those of ``evaluation.verdict``."""


class Finding(NamedTuple):
    """What a run shows, in words.

    Attributes:
        tone: how good it is.
        headline: one sentence.
        details: further sentences, which qualify it.
    """

    tone: Tone
    headline: str
    details: tuple[str, ...]

    @property
    def text(self) -> str:
        """All sentences: where the headline stands alone, it may sound better than what was found."""
        return " ".join([self.headline, *self.details])


def finding(verdicts: Verdicts, sixteen_bits: str) -> Finding:
    """The verdicts of all precisions in a few sentences; the worst format decides.

    Args:
        verdicts: of one model.
        sixteen_bits: name of the precision that is not quantized.
    """
    if not verdicts:
        return Finding("unknown", "The run wrote no verdict.", ())
    tone, headline = _forgetting(verdicts, sixteen_bits)
    details = []
    unsure = _answered(verdicts, "over_forgotten", "in part", "unknown")
    if over := _answered(verdicts, "over_forgotten", "yes"):
        details.append(f"Over-forgotten in {_listed(over)}: an outsider can see that something was removed.")
    if unsure:
        details.append(f"Whether too much was forgotten in {_listed(unsure)} cannot be told for sure.")
    lost, part = _answered(verdicts, "utility", "no"), _answered(verdicts, "utility", "in part")
    unmeasured = _answered(verdicts, "utility", "unknown")
    if lost:
        details.append(f"The model lost what it is kept for in {_listed(lost)}.")
    if part:
        details.append(f"What it is kept for is there in part, or for part of the measures, in {_listed(part)}.")
    if unmeasured:
        details.append(f"Whether it still does what it is kept for was not measured in {_listed(unmeasured)}.")
    if not (lost or part or unmeasured):
        details.append("The model still does what it is kept for.")
    if lost:
        tone = "bad"
    elif tone == "good" and (over or unsure or part or unmeasured):
        tone = "mixed"
    return Finding(tone, headline, tuple(details))


def _forgetting(verdicts: Verdicts, sixteen_bits: str) -> tuple[Tone, str]:
    formats = [name for name in verdicts if name != sixteen_bits]
    if _answered(verdicts, "known", "no"):
        return (
            "unknown",
            "There was nothing to forget: the model knew no more than one that never saw the text.",
        )
    if _answered(verdicts, "forgotten", "no"):
        return "bad", "The text was not forgotten."
    if _answered(verdicts, "forgotten", "unknown"):
        return "unknown", "Whether enough was forgotten cannot be told from these measurements."
    is_whole = not _answered(verdicts, "forgotten", "in part")
    forgotten = "The text was forgotten" if is_whole else "The text was forgotten in part"
    if back := _answered(verdicts, "survives", "no"):
        return "bad", f"{forgotten}, but it came back in {_listed(back)}."
    if part := _answered(verdicts, "survives", "in part"):
        return "mixed", f"{forgotten}; in {_listed(part)} some of it came back, or may have."
    if unsure := _answered(verdicts, "survives", "unknown"):
        return "unknown", f"{forgotten}; whether it stays forgotten in {_listed(unsure)} cannot be told."
    if not formats:
        return "mixed", f"{forgotten} at 16 bits; no other format was tested."
    stays = f"{forgotten}, and stays so in every format that was tested ({_listed(list(verdicts))})."
    return ("good" if is_whole else "mixed"), stays


def _answered(verdicts: Verdicts, question: str, *answers: str) -> list[str]:
    """The precisions whose answer is one of these; an answer that is missing is ``unknown``."""
    return [name for name, found in verdicts.items() if found.get(question, "unknown") in answers]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
