"""A finished model whose forgetting holds at 16 bits, mended so that it holds in formats, too."""

from quail_lightning.hardening.formats import (
    ENOUGH,
    PORTION,
    Goal,
    Hardened,
    Nlls,
    Windows,
    forget_nlls,
    harden_model,
    nlls_of,
)

__all__ = ["ENOUGH", "PORTION", "Goal", "Hardened", "Nlls", "Windows", "forget_nlls", "harden_model", "nlls_of"]
