"""How RWKU puts its probes to a model."""

from __future__ import annotations

from typing import Any

from quail_lightning.data.chat import render_chat

BLANK = "Please complete the blank in the following question."
QUESTION = "Please briefly answer the following question."


def probe_prompt(query: str, metric: str, kind: str, tokenizer: Any) -> str:
    """The text to be continued: request and query, in the chat template if there is one, then ``Answer:``.

    An ``affirmative suffix`` begins the answer itself, so nothing follows it; ``incontext learning`` brings its
    own ``Question:``.

    Args:
        query: of the probe.
        metric: name ending in ``_fb``: fill in the blank.
        kind: the probe's ``type``, which matters for adversarial attacks alone.
        tokenizer: whose chat template is used; None, or one without template: plain text.
    """
    request = BLANK if metric.endswith("_fb") else QUESTION
    if metric == "rwku_aa" and kind == "affirmative suffix":
        return _user(f"{request}\nQuestion: {query}", tokenizer)
    asked = query if metric == "rwku_aa" and kind == "incontext learning" else f"Question: {query}"
    return _user(f"{request}\n{asked}\n", tokenizer) + "Answer:"


def dialogue(question: str, answer: str, tokenizer: Any) -> str:
    """A question with its answer as a training text.

    Args:
        question: what is asked.
        answer: what is to be said.
        tokenizer: whose chat template is used; None, or one without template: ``Question: … Answer: …``.
    """
    if tokenizer is None or tokenizer.chat_template is None:
        return f"Question: {question}\nAnswer: {answer}"
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return render_chat(turns, tokenizer)


def _user(content: str, tokenizer: Any) -> str:
    if tokenizer is None or tokenizer.chat_template is None:
        return content
    return render_chat([{"role": "user", "content": content}], tokenizer, generation_prompt=True)
