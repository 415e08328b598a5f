"""Who continues prompts: the model in memory (``generate``), or a server that has loaded the same folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from quail_lightning.inference.sampling import Sampling
from quail_lightning.inference.short_memory import Progress


class Engine(Protocol):
    """Continues prompts as ``generate`` does, for a model that it has loaded itself."""

    def complete(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        batch_size: int | None = None,
        progress: Progress | None = None,
        stops: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[str]:
        """One completion a prompt, in the prompts' order: the arguments and the text of ``generate``."""
        ...
