"""Layers that inference engines multiply as one, and whose global scale is therefore one (NVFP4)."""

from __future__ import annotations

from collections.abc import Collection

FUSED = (
    ("gate_proj", "up_proj"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("w1", "w3"),
)
"""Names of layers within one module that vLLM fuses; llm-compressor's table, and a test compares them."""


def fused_weights(names: Collection[str]) -> list[tuple[str, ...]]:
    """The weights among these that are fused, group by group; a group counts where all of it is there.

    Args:
        names: of weights, such as ``model.layers.0.self_attn.q_proj.weight``.
    """
    there = set(names)
    owners = dict.fromkeys(name.removesuffix(".weight").rpartition(".")[0] for name in names)
    groups = [tuple(f"{owner}.{leaf}.weight" for leaf in leaves) for owner in owners for leaves in FUSED]
    return [group for group in groups if there.issuperset(group)]
