"""What every attack on a deployed model promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

# from here, and not from a TYPE_CHECKING block of each attack: jsonargparse executes such blocks where it reads a
# constructor, and importing transformers takes seconds
if TYPE_CHECKING:
    from transformers import PreTrainedModel as PreTrainedModel
else:
    PreTrainedModel = nn.Module

Texts = Mapping[str, Tensor]
"""What an attacker has: ``forget``, ``retain``, ``general`` → [n, time] windows of token numbers, masked as in
``functional.masking``."""

Progress = Callable[[int, int], None]  # (done, total)


@runtime_checkable
class Attack(Protocol):
    """Makes an attacked copy of a model that was deployed in full precision.

    The input is unchanged bit for bit and shares no memory with the copy; the copy has the model's device, dtype
    and evaluation mode; the same input and texts give the same copy; torch's, Python's and numpy's random states
    are as before.
    """

    @property
    def version(self) -> int:
        """Raised when what it does changes, which makes finished figures stale."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names among ``Texts`` that it needs; empty where it needs the weights alone."""

    @property
    def bits_in_memory(self) -> int:
        """Bits a weight that the attack takes beside the model that is attacked."""

    def targets(self, model: PreTrainedModel) -> list[str]:
        """Names of the parameters that it may change.

        Args:
            model: its shapes alone are read, so that it may lie on the meta device.

        Raises:
            InputError: the architecture cannot be attacked this way.
        """

    def attack(self, model: PreTrainedModel, texts: Texts, progress: Progress | None = None) -> PreTrainedModel:
        """The attacked copy.

        Args:
            model: whole, in a floating dtype.
            texts: those that it ``reads``.
            progress: called with the steps made and their total.
        """


@dataclass(frozen=True, eq=False)
class NamedAttack:
    """An attack and the stem of its file.

    Attributes:
        name: stem of ``configs/attack/<name>.yaml``.
        attack: of that file.
        settings: what the file holds, fit for JSON.
    """

    name: str
    attack: Attack
    settings: Mapping[str, object]
