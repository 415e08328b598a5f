"""Question–answer pairs to be forgotten and to be kept, each a window of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from quail_lightning.data.alternates import Alternates, alternate_answers
from quail_lightning.data.answers import AnswerWindows, paired_windows, plain_text
from quail_lightning.data.questions import Question
from quail_lightning.data.sets import Documents, Windows, disjoint_documents, say_overlap
from quail_lightning.errors import InputError


@dataclass(frozen=True)
class PairSets:
    """The pairs of both sets.

    Attributes:
        forget: to be forgotten.
        retain: to be kept.
        names: of the two files or parts, for errors.
    """

    forget: tuple[Question, ...]
    retain: tuple[Question, ...]
    names: tuple[str, str]

    def documents(self) -> Documents:
        """The pairs as text; none of the retain set also stands in the forget set.

        Raises:
            InputError: no retain pair is left.
        """
        forget, retain = ([plain_text(pair) for pair in pairs] for pairs in (self.forget, self.retain))
        documents = disjoint_documents(forget, [retain])
        if not documents.retain:
            raise InputError(
                "no retain pair is left after those of the forget set were dropped",
                given=", ".join(self.names),
                remedy="The two must differ",
            )
        return documents

    def windows(self, how: AnswerWindows, most_forget: int | None, most_retain: int | None) -> Windows:
        """One window a pair, the first so many of each set; retain pairs that stand in the forget set left out.

        Raises:
            InputError: as ``documents``, or a pair that makes no window.
        """
        documents = self.documents()
        say_overlap(documents)
        kept = set(documents.retain)
        retain = [pair for pair in self.retain if plain_text(pair) in kept]
        forget = how.windows(self.forget, self.names[0])[:most_forget]
        return Windows(forget, how.windows(retain[:most_retain], self.names[1]))

    def with_alternates(self, how: AnswerWindows, source: Alternates, records: Sequence[Any], seed: int) -> Tensor:
        """The forget set's true answers and their alternates, [pairs, 2, time]; see ``alternate_answers``.

        Args:
            how: a pair becomes a window.
            source: where alternates come from.
            records: of the forget set, as read.
            seed: of what is drawn.
        """
        return paired_windows(how, self.forget, self.alternates(source, records, seed), self.names[0])

    def alternates(self, source: Alternates, records: Sequence[Any], seed: int) -> list[str]:
        """An alternate answer for each forget pair.

        Raises:
            InputError: there is none for one of them.
        """
        return alternate_answers(source, self.forget, records, self.names[0], seed)
