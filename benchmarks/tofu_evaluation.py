"""TOFU's evaluation (all four sets, one precision) against one record at a time: one command, one table.

    python benchmarks/tofu_evaluation.py --corpus FOLDER [--model CHECKPOINT] [--records N] [--json FILE]

The reference asks each question by itself through transformers' ``generate`` and reads the answers of one record
(the true one, its paraphrase, the wrong ones) in one padded forward pass. Both run in this process, in float32, on
the same records of FOLDER, TOFU's files. Without --model the model is a small Llama with random weights and a
tokenizer of TOFU's text; it never ends an answer, so that every one takes all 200 tokens. The reference runs on
the first few records of each set; its time for all of them is its time a record times their number, since it
treats each by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from quail_lightning.data import TofuDataModule
from quail_lightning.data.answers import plain_text
from quail_lightning.data.questions import AnsweredQuestion, AnswerSets, EvaluationRecords, Question
from quail_lightning.evaluation.answer_losses import NEW_TOKENS
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.models.tiny import train_tokenizer
from quail_lightning.terminal import quiet_libraries


def main() -> None:
    options = _options()
    quiet_libraries()
    data = TofuDataModule(options.corpus, chat="never")
    records = _first(data.records_alone(), options.records)
    model, tokenizer = _load(options.model) if options.model else _random(data)
    suite, log = EvaluationSuite(batch_size=options.batch_size), BenchmarkLog()
    assert records.answers is not None
    sets = records.answers.sets
    suite.evaluate(model, tokenizer, _first(records, 2), {})  # both are warm
    _answer(model, tokenizer, sets["forget"][0])
    ours = _seconds(lambda: suite.evaluate(model, tokenizer, records, {}, log=log))

    reference, same, apart = 0.0, 0, 0.0
    sample = {of: rows[: options.reference] for of, rows in sets.items()}
    for of, rows in sample.items():
        said, losses = [], []
        taken = _seconds(lambda rows=rows, said=said: said.extend(_answer(model, tokenizer, row) for row in rows))
        taken += _seconds(lambda rows=rows, to=losses: to.extend(_losses(model, tokenizer, row) for row in rows))
        reference += taken / len(rows) * len(sets[of])
        found = [row.response for row in log.responses[f"answer_rouge_{of}"]]
        same += sum(a == b for a, b in zip(said, found, strict=False))
        for expected, got in zip(losses, log.scores[f"answer_probability_{of}"], strict=False):
            wanted = [got["answer"], *([got["paraphrase"]] if len(expected) > 1 + len(got["wrong"]) else [])]
            pairs = zip(expected, [*wanted, *got["wrong"]], strict=True)
            apart = max(apart, *(abs(a - b) for a, b in pairs))
    asked = sum(map(len, sample.values()))
    words = statistics.fmean(
        len(tokenizer(row.response).input_ids) for row in log.responses["answer_rouge_forget"]
    )
    result = {
        "speedup": reference / ours,
        "seconds": {"one record at a time": reference, "batched": ours},
        "records": sum(map(len, sets.values())),
        "reference_records": asked,
        "responses_identical": same,
        "largest_loss_difference": apart,
        "tokens_a_response": words,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
    }
    print(_table(result))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# --- the reference -----------------------------------------------------------------------------------------


def _answer(model: Any, tokenizer: Any, row: AnsweredQuestion) -> str:
    """What the model says to one question."""
    ids, asked = _encoded(tokenizer, row.question, row.answer)
    prompt = torch.tensor([ids[:asked]])
    output = model.generate(
        prompt, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    return str(tokenizer.decode(output[0, asked:], skip_special_tokens=True))


def _losses(model: Any, tokenizer: Any, row: AnsweredQuestion) -> list[float]:
    """Mean NLL a token of every answer of one record, nats; the token that ends it is one of them."""
    answers = [row.answer, *([] if row.paraphrase is None else [row.paraphrase]), *row.wrong]
    encoded = [_encoded(tokenizer, row.question, answer) for answer in answers]
    longest = max(len(ids) for ids, _ in encoded)
    batch = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids, _ in encoded])
    labels = torch.full_like(batch, -100)
    for number, (ids, asked) in enumerate(encoded):
        labels[number, asked : len(ids)] = batch[number, asked : len(ids)]
    with torch.no_grad():
        logits = model(batch).logits[:, :-1].transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(logits, labels[:, 1:], reduction="none").double()
    return [float(loss.sum() / (label >= 0).sum()) for loss, label in zip(losses, labels[:, 1:], strict=True)]


def _encoded(tokenizer: Any, question: str, answer: str) -> tuple[list[int], int]:
    """A pair as the model reads it, with its end, and how many tokens stand before the answer and its space."""
    start = len(plain_text(Question(question, ""))) - 1
    found = tokenizer(plain_text(Question(question, answer)), return_offsets_mapping=True)
    asked = sum(end <= start for _, end in found["offset_mapping"])
    return [*found["input_ids"], tokenizer.eos_token_id], asked


# --- model and records -------------------------------------------------------------------------------------


def _load(checkpoint: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(checkpoint)


def _random(data: TofuDataModule) -> tuple[Any, Any]:
    """A Llama of five million parameters; its weights are large enough that one token leads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    documents = data.training_documents()
    tokenizer = train_tokenizer([*documents.forget, *documents.retain], 4_096)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=1_024,
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval(), tokenizer


def _first(records: EvaluationRecords, count: int | None) -> EvaluationRecords:
    assert records.answers is not None
    sets: dict[str, Sequence[AnsweredQuestion]] = {of: rows[:count] for of, rows in records.answers.sets.items()}
    return replace(records, answers=AnswerSets(sets, records.answers.chat))  # type: ignore[arg-type]


def _table(result: dict[str, Any]) -> str:
    seconds = result["seconds"]
    return "\n".join(
        [
            f"{result['parameters'] / 1e6:.1f}M parameters, {result['threads']} threads, "
            f"{result['records']} records, {result['tokens_a_response']:.0f} tokens a response",
            "",
            "| one record at a time, s | batched, s | ratio |",
            "|---|---|---|",
            f"| {seconds['one record at a time']:.0f} | {seconds['batched']:.0f} | {result['speedup']:.1f} |",
            "",
            f"responses identical: {result['responses_identical']} of {result['reference_records']}; "
            f"largest difference of a loss: {result['largest_loss_difference']:.1e} nats a token",
        ]
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="TOFU as a folder")
    parser.add_argument("--model", help="a checkpoint, in place of random weights")
    parser.add_argument("--records", type=int, help="only so many of each set")
    parser.add_argument("--reference", type=int, default=8, help="records of each set that the reference runs on")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
