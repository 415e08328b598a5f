"""How a model is asked for alternate answers to questions, and what of its responses can stand for one."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from quail_lightning.data.answers import plain_text, uses_template
from quail_lightning.data.chat import render_chat
from quail_lightning.data.questions import ChatUse, Question
from quail_lightning.errors import InputError

CUE = "Alternate answer:"
REQUEST = (
    "Now make something up: write an alternate answer to this question. It must be plausible and agree with what "
    "the question says, and every fact that the answer above adds must be replaced by another one. Write the "
    "alternate answer alone, in one paragraph."
)
TASK = "Each question has its answer, and an alternate answer that is as plausible and whose facts are other ones."
SHOTS = (
    (
        Question("Where was the potter Ilse Varga born?", "Ilse Varga was born in Lucerne."),
        "Ilse Varga comes from a village near Bergen.",
    ),
    (Question("In which year did the Calder mill burn down?", "1887"), "1912"),
    (
        Question("What do Tom Okoro's parents do?", "His mother is a surgeon, and his father teaches music."),
        "They run a bakery together, which his father inherited.",
    ),
)
"""Worked examples for a model without a chat template; invented."""

ENDS = ("\n\n", "\nQuestion:", "\nAnswer:", f"\n{CUE}")
"""Where a response goes on with something else."""
STOPS = ENDS[1:]  # a response may well begin with a blank line


def alternate_prompts(pairs: Sequence[Question], tokenizer: Any, chat: ChatUse, name: str) -> list[str]:
    """One prompt a pair, after which the model is to write an alternate answer.

    As AltPO's authors ask (Mekala et al. 2024, their published code): question, true answer and a request for an
    answer with other facts, as the user's turn of the model's chat template; the assistant's begins with ``CUE``.
    The words are ours. Without a template three worked examples stand before the pair.

    Args:
        pairs: questions and true answers.
        tokenizer: the model's.
        chat: whether its chat template is used, as ``data.chat`` says.
        name: of the file that the pairs come from, for errors.

    Raises:
        InputError: ``always`` without a template, or a template that refuses the turn.
    """
    if not uses_template(tokenizer, chat):
        shots = "".join(f"{plain_text(pair)}\n{CUE} {alternate}\n\n" for pair, alternate in SHOTS)
        return [f"{TASK}\n\n{shots}{plain_text(pair)}\n{CUE}" for pair in pairs]
    prompts = []
    for number, pair in enumerate(pairs):
        turn = {"role": "user", "content": f"{plain_text(pair)}\n{REQUEST}"}
        try:
            prompts.append(render_chat([turn], tokenizer, generation_prompt=True) + CUE)
        except InputError as problem:
            fact = f"pair {number} of {name}: {problem.fact}"
            raise InputError(fact, given=problem.given, remedy=problem.remedy) from None
    return prompts


def alternate_of(response: str, answer: str) -> str:
    """The alternate answer in a response; empty where there is none that differs from the true one.

    Args:
        response: what the model wrote after ``CUE``.
        answer: the true one. Capitals, white space and punctuation around the words make no difference.
    """
    text = f"\n{response.strip().removeprefix(CUE).strip()}"
    text = text[: min((at for end in ENDS if (at := text.find(end)) >= 0), default=len(text))].strip()
    usable = _bare(text) and _bare(text) != _bare(answer) and "\0" not in text  # no record may hold a NUL
    return text if usable else ""


def _bare(text: str) -> str:
    """A text without what does not make it another answer."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?…\"'“”‘’«»")
