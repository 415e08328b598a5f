"""Whether the forget term and the data agree on alternate answers."""

from __future__ import annotations

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.objectives import Term
from quail_lightning.unlearning.adversary import LatentAdversary


def check_alternates(forget: Term, adversary: LatentAdversary | None, windows: Tensor) -> None:
    """Refuse a forget term without the alternate answers that it reads, and alternates that nothing reads.

    Args:
        forget: the forget term.
        adversary: of the forget steps.
        windows: that the forget steps train on, [n, 2, time] where there are alternates.

    Raises:
        InputError: naming the option.
    """
    name, given = type(forget).__name__, windows.ndim == 3
    if forget.needs.alternate and not given:
        raise InputError(
            f"{name} compares each answer with an alternate one, and the forget windows have none",
            remedy="Set data.alternates: idk, others, or column with answers of your own",
        )
    if given and not forget.needs.alternate:
        raise InputError(
            f"data.alternates gives alternate answers, which {name} does not read",
            allowed="model.forget: quail_lightning.objectives.DirectPreference, or data.alternates: null",
        )
    if given and adversary is not None:
        raise InputError(
            "model.adversary brings back one text a window, and data.alternates gives two",
            remedy="Set model.adversary or data.alternates to null",
        )
