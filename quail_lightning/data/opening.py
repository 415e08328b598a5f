"""With which tokens every window and every prompt opens: one rule for data, evaluation and calibration."""

from __future__ import annotations

from typing import Any


def opening_tokens(tokenizer: Any) -> list[int]:
    """The tokens before the first real one; empty where that one opens a window or prompt itself.

    1. The tokenizer's BOS if it has one, whether or not it puts it there by itself: Llama's ``<s>``, Gemma's
       ``<bos>``, OPT's ``</s>``; GPT-2's and GPT-NeoX's ``<|endoftext|>``, which stood between the documents they
       were trained on.
    2. Else what the tokenizer itself puts before a text: models are trained on what their tokenizer makes.
    3. Else nothing (Qwen).
    """
    if tokenizer.bos_token_id is not None:
        return [int(tokenizer.bos_token_id)]
    bare, dressed = (
        list(tokenizer("a", add_special_tokens=special, verbose=False)["input_ids"]) for special in (False, True)
    )
    starts = (place for place in range(len(dressed)) if dressed[place : place + len(bare)] == bare)
    return dressed[: next(starts, 0)]


def opening_text(tokenizer: Any) -> str:
    """The opening tokens as text, which a rendered chat may hold already."""
    if tokenizer.bos_token is not None:
        return str(tokenizer.bos_token)
    return str(tokenizer.decode(opening_tokens(tokenizer)))


def describe_opening(tokenizer: Any) -> str:
    """One sentence for results."""
    if not opening_tokens(tokenizer):
        return "The tokenizer has no BOS: windows and prompts open with their first real token."
    what = "BOS" if tokenizer.bos_token is not None else "which the tokenizer puts before a text"
    return f"Windows and prompts open with {opening_text(tokenizer)!r} ({what})."
