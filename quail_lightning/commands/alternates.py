"""`quail alternates`: let a model write the alternate answers that AltPO prefers to the true ones."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from quail_lightning.commands.device import named_device
from quail_lightning.conversion.located import located
from quail_lightning.data.alternate_prompts import STOPS, alternate_of, alternate_prompts
from quail_lightning.data.alternates import COLUMN
from quail_lightning.data.answers import check_pairs
from quail_lightning.data.json_records import JSON_ENDINGS
from quail_lightning.data.questions import ChatUse, Question
from quail_lightning.data.text_files import holds_questions, read_questions
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError, RunError, check_choice
from quail_lightning.inference.encoding import encode, positions
from quail_lightning.inference.generation import check_lengths, generate
from quail_lightning.inference.sampling import Sampling
from quail_lightning.models.checkpoint import check_whole, load_config, load_model
from quail_lightning.quantization import computing
from quail_lightning.storage.durable import check_writable, replace_text
from quail_lightning.terminal import Bar, step

Ask = Callable[[list[int], int], list[str]]
"""(numbers of pairs, which draw it is) → a response to each."""


@dataclass(frozen=True)
class WrittenAlternates:
    """What ``alternates`` wrote.

    Attributes:
        file: of the records.
        count: of the records.
        without: numbers of those whose alternate is left empty, since no draw gave a usable one.
    """

    file: Path
    count: int
    without: tuple[int, ...]


def alternates(
    model: str | Path,
    forget: str | Path,
    out: str | Path,
    chat: ChatUse = "auto",
    seed: int = 42,
    temperature: float = 1.0,
    draws: int = 5,
    max_new_tokens: int = 200,
    batch_size: int | None = None,
    device: str = "auto",
) -> WrittenAlternates:
    """Write question, answer and an alternate answer by the model, one JSON record a line, in the pairs' order.

    The model computes as it does for `quail evaluate` at bf16. The same file, model, seed and batch size give the
    same alternates. A pair without a usable one keeps its record, with an empty ``alternate``: training refuses
    the file until somebody has written one, where a record that was left out would silently not be forgotten.

    Args:
        model: folder or hub name; AltPO's authors take the target itself.
        forget: file of records with ``question`` and ``answer``.
        out: file of the result, whose folder is made and which its owner alone can read.
        chat: ``auto`` asks in the tokenizer's chat template where it has one, ``never`` by worked examples.
        seed: of the draws.
        temperature: divides the logits; top-k and top-p are the checkpoint's own. The authors draw at 1.
        draws: how often a pair is asked at most, until its alternate is neither empty nor the true answer.
        max_new_tokens: tokens of an alternate; a longer one ends there. The authors' 200.
        batch_size: pairs asked together; None: by free memory.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        InputError: whatever is found to be wrong, before the model is loaded.
        RunError: no pair at all got an alternate; nothing is written.
    """
    model, forget, out = str(model), str(forget), Path(out)
    _check_numbers(temperature, draws, max_new_tokens, batch_size)
    check_choice("chat", chat, get_args(ChatUse))
    _check_out(out)
    place = named_device(device)
    pairs = _pairs(forget)
    (model,) = located([model])
    check_whole(model, torch.bfloat16)
    tokenizer = load_tokenizer(model)
    prompts = alternate_prompts(pairs, tokenizer, chat, forget)
    _check_room(encode(tokenizer, prompts), max_new_tokens, positions(load_config(model)))
    asked = load_model(model, torch.bfloat16)
    torch.nn.Module.to(asked, place)
    with step("drawing alternate answers"), Bar() as bar, computing(asked):

        def ask(numbers: list[int], draw: int) -> list[str]:
            def show(done: int, total: int) -> None:
                bar.show(f"{model} · draw {draw + 1} of at most {draws}", done, total)

            show(0, len(numbers))
            # seed + draw would let the second draw of one seed be the first of the next
            drawn = Sampling(temperature, seed=random.Random(f"alternates {seed} {draw}").getrandbits(31))
            return generate(
                asked, tokenizer, [prompts[n] for n in numbers], max_new_tokens, batch_size, show, STOPS, drawn
            )

        found = usable_alternates(ask, pairs, draws)
    if not any(found):
        raise RunError(
            f"{model} gave no usable alternate answer to any of {len(pairs)} questions, in {draws} draws of each; "
            "nothing was written",
            remedy="Ask a model that was tuned for chats, or set data.alternates to others",
        )
    records = [
        {"question": pair.question, "answer": pair.answer, COLUMN: alternate}
        for pair, alternate in zip(pairs, found, strict=True)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    _check_out(out)  # another process may have written it meanwhile
    replace_text(out, lines, private=True)
    return WrittenAlternates(out, len(pairs), tuple(n for n, alternate in enumerate(found) if not alternate))


def usable_alternates(ask: Ask, pairs: Sequence[Question], draws: int) -> list[str]:
    """An alternate answer to each pair, as ``alternate_of`` finds it; empty where no draw gave a usable one.

    Args:
        ask: the model.
        pairs: questions and true answers.
        draws: how often a pair is asked at most; only those without a usable answer are asked again.
    """
    found = [""] * len(pairs)
    for draw in range(draws):
        left = [number for number, alternate in enumerate(found) if not alternate]
        if not left:
            break
        for number, response in zip(left, ask(left, draw), strict=True):
            found[number] = alternate_of(response, pairs[number].answer)
    return found


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("model", type=str, help="folder or hub name; AltPO takes the target itself")
    parser.add_argument("--data.forget", type=str, required=True, help="file of records with question and answer")
    parser.add_argument("--data.chat", type=ChatUse, default="auto", help="whether its chat template is used")
    parser.add_argument("--out", type=str, required=True, help="file of the result (.jsonl); it must not exist")
    parser.add_argument("--seed", type=int, default=42, help="of the draws")
    parser.add_argument("--temperature", type=float, default=1.0, help="higher: more varied, and less plausible")
    parser.add_argument("--draws", type=int, default=5, help="of a question at most, until one is usable")
    parser.add_argument("--max_new_tokens", type=int, default=200, help="of an alternate; longer ones end there")
    parser.add_argument("--batch_size", type=int | None, default=None, help="default: by free memory")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")


def run(arguments: Any) -> None:
    """Carry the verb out."""
    options = ("seed", "temperature", "draws", "max_new_tokens", "batch_size", "device")
    chosen = {name: getattr(arguments, name) for name in options}
    data = arguments.data
    made = alternates(arguments.model, data.forget, arguments.out, data.chat, **chosen)
    print(f"saved: {made.file} ({made.count - len(made.without)} of {made.count} pairs have an alternate answer)")
    if made.without:
        shown = ", ".join(map(str, made.without[:20])) + (", ..." if len(made.without) > 20 else "")
        print(
            f"{len(made.without)} got no usable one in {arguments.draws} draws. Their alternate is empty, and fit "
            f"refuses the file until you write one or leave the pair out. Their numbers, from 0: {shown}"
        )
    print("Read the alternates before you train on them: one may say the true answer in other words.")


def _check_numbers(temperature: float, draws: int, max_new_tokens: int, batch_size: int | None) -> None:
    if not 0 < temperature < math.inf:
        raise InputError("temperature must be positive and finite", given=temperature, remedy="The authors take 1")
    for name, number in (("draws", draws), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1", given=number)


def _check_out(out: Path) -> None:
    if os.path.lexists(out):
        raise InputError(f"out {out} exists already", remedy="Name another file, or remove it first")
    if out.suffix.lower() not in JSON_ENDINGS:
        raise InputError(
            "out is a file of JSON lines", given=str(out), allowed=f"a name in {', '.join(JSON_ENDINGS)}"
        )
    check_writable(out.parent, "the folder of out")


def _check_room(prompts: Sequence[Sequence[int]], max_new_tokens: int, limit: int | None) -> None:
    try:
        check_lengths([len(prompt) for prompt in prompts], max_new_tokens, limit)
    except InputError as problem:
        remedy = "Set max_new_tokens lower, name a model with more positions, or leave the longest pairs out"
        raise InputError(problem.fact, remedy=remedy) from None


def _pairs(forget: str) -> tuple[Question, ...]:
    if not holds_questions(forget):
        raise InputError(
            "alternate answers are answers to questions, and the forget file holds none",
            given=forget,
            remedy="Name a file of records with question and answer, and without text or a chat",
        )
    pairs = read_questions(forget)
    check_pairs(pairs, forget)
    return pairs
