"""Chat records: their turns, and the text that a chat template makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from quail_lightning.data.located import Located, wrong_form
from quail_lightning.data.opening import opening_text
from quail_lightning.errors import InputError

CHAT_FIELDS = ("messages", "conversations")
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
"""ShareGPT's names of those who speak → the templates'."""

Turns = list[dict[str, str]]
Renderer = Callable[[Turns], str]


def chat_turns(found: Located) -> Turns:
    """The turns of a list of ``role`` and ``content``, or ShareGPT's ``from`` and ``value``.

    Raises:
        InputError: an empty list, or a turn without the two strings; with its number, not its words.
    """
    wanted = "a list of turns with the strings role and content (or from and value)"
    if not isinstance(found.record, list) or not found.record:
        raise wrong_form(found, wanted)
    turns: Turns = []
    for number, turn in enumerate(found.record):
        fields = turn if isinstance(turn, dict) else {}
        role, content = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise wrong_form(Located(f"{found.place}, turn {number}", turn), wanted)
        turns.append({"role": ROLES.get(role, role), "content": content})
    return turns


def turns_as_json(turns: Turns) -> str:
    """What chats are compared by where no tokenizer is at hand."""
    return json.dumps(turns, ensure_ascii=False)


def renderer(tokenizer: Any | None) -> Renderer:
    """What makes a text of turns: the tokenizer's chat template; without a tokenizer ``turns_as_json``."""
    return turns_as_json if tokenizer is None else partial(render_chat, tokenizer=tokenizer)


def render_chat(turns: Turns, tokenizer: Any, generation_prompt: bool = False) -> str:
    """The text of turns by the tokenizer's chat template, without its opening.

    Prompts and windows get their opening where they are encoded; a second one would be another text.

    Args:
        turns: ``role`` and ``content`` of each.
        tokenizer: whose template is used.
        generation_prompt: end where the assistant is to speak.

    Raises:
        InputError: the tokenizer has no chat template, or its template refuses these turns.
    """
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise InputError(
            "these are chat records, and the model's tokenizer has no chat template to make a text of them",
            remedy="Name the model that was tuned for chats, or write each record as the string text",
        )
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation_prompt)
    except TemplateError:  # its message can quote the turns
        roles = ", ".join(turn["role"] for turn in turns[:4] if turn["role"] in ("system", "user", "assistant"))
        raise InputError(
            f"the model's chat template refuses these {len(turns)} turns",
            given=roles or "other roles",
            remedy="Most templates want user and assistant in turn, and some no system turn",
        ) from None
    return str(text).removeprefix(opening_text(tokenizer))
