"""Draws that follow from the run's seed and a name alone, so that all processes draw the same."""

from __future__ import annotations

import hashlib
import os


def global_seed() -> int:
    """That of Lightning's ``seed_everything``; 0 where it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def named_key(seed: int, name: str) -> int:
    """A key of 64 bits for the draws of what has this name."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
