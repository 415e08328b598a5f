"""Question–answer pairs → windows, one a pair, with the loss on the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from quail_lightning.data.chat import render_chat
from quail_lightning.data.opening import opening_tokens
from quail_lightning.data.questions import ChatUse, Question, VerbatimPrompt
from quail_lightning.data.tokens import token_ids
from quail_lightning.data.windows import padded
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import masked, side_by_side

LossOn = Literal["answer", "all"]

STOPS = ("\n\n", "\nQuestion:")
"""Where a model that was not taught to end goes on with something else."""


def plain_text(pair: Question) -> str:
    """A pair in the form in which KnowMem asks."""
    return f"Question: {pair.question}\nAnswer: {pair.answer}"


@dataclass(frozen=True)
class AnswerWindows:
    """How a pair becomes a window.

    With a chat template the question is the user's turn and the answer the assistant's, closed as the template
    closes it; without one the text is ``plain_text``, closed by the tokenizer's end-of-text token if it has one.

    Attributes:
        tokenizer: a transformers tokenizer.
        max_len: tokens that a pair may have, opening and end included.
        loss_on: ``answer`` masks the prompt; ``all`` nothing but the padding.
        chat: ``auto`` uses the tokenizer's chat template where it has one; ``always`` refuses without.
    """

    tokenizer: Any
    max_len: int
    loss_on: LossOn = "answer"
    chat: ChatUse = "auto"

    def windows(self, pairs: Sequence[Question], name: str) -> Tensor:
        """One window a pair, padded on the right up to the longest.

        Args:
            pairs: at least one.
            name: of the file or part that they come from, for errors.

        Returns:
            [pairs, longest] int64, masked as in ``functional.masking``.

        Raises:
            InputError: an empty question or answer, a pair longer than ``max_len``, or an unfit template.
        """
        return padded(self.rows(pairs, name), self.tokenizer)

    def rows(self, pairs: Sequence[Question], name: str) -> list[Tensor]:
        """Every pair by itself, without padding: [time] int64, masked as in ``functional.masking``.

        Raises:
            InputError: as ``windows``.
        """
        check_pairs(pairs, name)
        rows = [self._window(pair, f"pair {number} of {name}") for number, pair in enumerate(pairs)]
        lengths = [len(row) for row in rows]
        longer = [number for number, length in enumerate(lengths) if length > self.max_len]
        if longer:
            raise InputError(
                f"pair {longer[0]} of {name} has {lengths[longer[0]]} tokens, more than a window holds",
                given=f"data.max_len: {self.max_len}; {len(longer)} of {len(rows)} pairs are longer",
                remedy=f"Set data.max_len to {max(lengths)}, or shorten or leave out these pairs",
            )
        return rows

    def record(self, pair: Question) -> VerbatimPrompt:
        """Everything before the answer as a prompt, the answer as its truth; a further question is none of it."""
        text, start = self._text(pair)
        prompt = text[: self._read(text, start)[1]]
        return VerbatimPrompt(prompt, pair.answer, tuple(stop for stop in STOPS if stop not in pair.answer))

    def _window(self, pair: Question, place: str) -> Tensor:
        try:
            text, start = self._text(pair)
        except InputError as problem:
            fact = f"{place}: {problem.fact}"
            raise InputError(fact, given=problem.given, remedy=problem.remedy) from None
        tokens = token_ids(text, self.tokenizer)
        read = self._read(text, start)[0] if self.loss_on == "answer" else 0
        opening = torch.tensor(opening_tokens(self.tokenizer), dtype=torch.int64)
        end = [] if self._is_chat or self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        window = torch.cat([opening, tokens, torch.tensor(end, dtype=torch.int64)])
        if self.loss_on == "all":
            return window
        return masked(window, torch.arange(len(window)) >= len(opening) + read)

    def _read(self, text: str, start: int) -> tuple[int, int]:
        """Tokens and characters before character ``start``; a token on both sides of it belongs to the answer."""
        if getattr(self.tokenizer, "is_fast", False):
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            offsets = encoded["offset_mapping"]
            read = sum(end <= start for _, end in offsets)
            return read, min(start, offsets[read][0]) if read < len(offsets) else start
        whole, prompt = (token_ids(part, self.tokenizer) for part in (text, text[:start]))
        shared = min(len(whole), len(prompt))
        return int((whole[:shared] == prompt[:shared]).long().cumprod(0).sum()), start

    def _text(self, pair: Question) -> tuple[str, int]:
        """The whole text without its opening, and the character at which what is learned begins."""
        if not self._is_chat:
            return plain_text(pair), len(plain_text(Question(pair.question, ""))) - 1  # the space is the answer's
        asked = [{"role": "user", "content": pair.question}]
        prompt = render_chat(asked, self.tokenizer, generation_prompt=True)
        text = render_chat([*asked, {"role": "assistant", "content": pair.answer}], self.tokenizer)
        # some templates open a turn to be written otherwise than one that is written
        start = len(prompt) if text.startswith(prompt) else text.rfind(pair.answer.strip())
        if start < 0:
            raise InputError(
                "the model's chat template changes the answer, so that it cannot be found in the text",
                remedy="Set data.chat: never",
            )
        return text, start

    @property
    def _is_chat(self) -> bool:
        return uses_template(self.tokenizer, self.chat)


def paired_windows(how: AnswerWindows, pairs: Sequence[Question], alternates: Sequence[str], name: str) -> Tensor:
    """The true answers and their alternates.

    Args:
        how: a pair becomes a window.
        pairs: questions and true answers.
        alternates: another answer to each.
        name: of the file or part that they come from, for errors.

    Returns:
        [pairs, 2, longest] int64, the true answer first, masked as in ``functional.masking``.
    """
    others = [Question(pair.question, answer) for pair, answer in zip(pairs, alternates, strict=True)]
    sets = [how.windows(pairs, name), how.windows(others, f"{name} with alternate answers")]
    return torch.stack(side_by_side(sets).split(len(pairs)), dim=1)


def uses_template(tokenizer: Any, chat: ChatUse) -> bool:
    """Whether questions are put in the tokenizer's chat template.

    Raises:
        InputError: there is none and ``chat`` is ``always``.
    """
    has = getattr(tokenizer, "chat_template", None) is not None
    if chat == "always" and not has:
        raise InputError(
            "the model's tokenizer has no chat template",
            given="data.chat: always",
            remedy="Name the model that was tuned for chats, or set data.chat: auto",
        )
    return has and chat != "never"


def check_pairs(pairs: Sequence[Question], name: str) -> None:
    """Refuse pairs without words.

    Raises:
        InputError: an empty question or answer; with its number, not its words.
    """
    for number, pair in enumerate(pairs):
        for what, text in (("question", pair.question), ("answer", pair.answer)):
            if not text.strip():
                raise InputError(
                    f"pair {number} of {name} has an empty {what}: there is nothing to learn or to forget",
                    remedy="Write one, or leave the pair out",
                )
