"""A whole NEWS evaluation (M1 to M4, one precision) against the published way of doing it: one command, one table.

    python benchmarks/evaluation.py [--quick] [--json FILE] [--corpus FOLDER] [--llama 1b] [--device cuda]

The reference does what MUSE's code does: one prompt at a time through transformers' `generate`, the ten worked
pairs read again for each question, every attack of M3 on every split, one forward pass for a text and one for its
lower-cased form, a Python loop over their tokens. Both run in this process, on the same small random Llama in
float32 (with Llama-2's number of words) and the same records: MUSE's number of records and Llama-2's number of
tokens in them, synthetic unless --corpus names a folder in MUSE's layout.

With --quick fewer records are evaluated, and the reference runs on the first few of these; its time for all of
them is its time a record times their number, since it treats each by itself.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer

from quail_lightning.data import MuseDataModule
from quail_lightning.data.questions import (
    EvaluationRecords,
    MembershipTexts,
    Question,
    QuestionSet,
    VerbatimPrompt,
)
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.models.tiny import train_tokenizer
from quail_lightning.terminal import quiet_libraries

WORDS = 32_000  # of Llama-2's tokenizer
SHAPES = {
    "small": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4},
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
}
PROMPT, TRUTH, TEXT, QUESTION, ANSWER = 930, 150, 1_900, 14, 4  # tokens of a NEWS record under Llama-2's tokenizer
ATTACK_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True)
class Amount:
    """Records evaluated, of each split; and how many of them the reference runs on."""

    prompts: int
    texts: int
    reference_prompts: int
    reference_texts: int


AMOUNTS = {False: Amount(100, 100, 100, 100), True: Amount(24, 8, 2, 2)}


def main() -> None:
    options = _options()
    quiet_libraries()
    amount = AMOUNTS[options.quick]
    records, tokenizer = _records(options.corpus, max(amount.prompts, amount.texts))
    records = _first(records, amount.prompts, amount.texts)
    model = _model(options.llama, len(tokenizer)).to(options.device)
    reported, everything = EvaluationSuite(), EvaluationSuite(attacks="all")
    warm = _first(records, 2, 1)
    reported.evaluate(model, tokenizer, warm, {})
    _reference(model, tokenizer, _first(records, 1, 1))

    sample = _first(records, amount.reference_prompts, amount.reference_texts)
    reference, expected = _reference(model, tokenizer, sample)
    seconds = {
        "generation": reference["generation"] * amount.prompts / amount.reference_prompts,
        "membership": reference["membership"] * amount.texts / amount.reference_texts,
    }
    log = BenchmarkLog()
    questions = replace(records, membership=None)
    texts = EvaluationRecords(membership=records.membership)
    ours = {
        "generation": _timed(options.device, lambda: reported.evaluate(model, tokenizer, questions, {}, log=log)),
        "membership": _timed(options.device, lambda: reported.evaluate(model, tokenizer, texts, {}, log=log)),
    }
    every_attack = _timed(options.device, lambda: everything.evaluate(model, tokenizer, texts, {}, log=log))
    found = {name: [row.response for row in rows] for name, rows in log.responses.items()}
    identical = all(found[name][: len(said)] == said for name, said in expected["responses"].items())
    assert log.membership is not None
    apart = max(
        abs(row[attack] - score)
        for split, rows in expected["scores"].items()
        for row, scores in zip(log.membership[split], rows, strict=False)
        for attack, score in scores.items()
    )
    result = {
        "speedup": sum(seconds.values()) / sum(ours.values()),
        "identical_responses": identical,
        "speedup_generation": seconds["generation"] / ours["generation"],
        "speedup_membership": seconds["membership"] / ours["membership"],
        "speedup_with_all_attacks": sum(seconds.values()) / (ours["generation"] + every_attack),
        "largest_score_difference": apart,
        "seconds": {"reference": seconds, "ours": ours | {"membership_all_attacks": every_attack}},
        "records": vars(amount),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": options.device,
        "threads": torch.get_num_threads(),
        "corpus": options.corpus or "synthetic",
    }
    print(_table(result))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def _timed(device: str, work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    start = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


# --- the reference -----------------------------------------------------------------------------------------


def _reference(model: Any, tokenizer: Any, records: EvaluationRecords) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of generation and membership; what was said, and each text's scores."""
    start = time.perf_counter()
    responses: dict[str, list[str]] = {}
    assert records.verbatim is not None
    said = []
    for record in records.verbatim:
        truth = tokenizer(record.truth, return_tensors="pt").input_ids[0, :128]
        response = _complete(model, tokenizer, record.prompt, 128)
        said.append(response)
        _score(tokenizer.decode(truth, skip_special_tokens=True), response)
    responses["verbmem_forget"] = said
    named = {"knowmem_forget": records.forget_questions, "knowmem_retain": records.retain_questions}
    for name, questions in named.items():
        assert questions is not None
        said = []
        for asked in questions.questions:
            shown = "".join(f"Question: {p.question}\nAnswer: {p.answer}\n\n" for p in questions.examples)
            response = _complete(model, tokenizer, f"{shown}Question: {asked.question}\nAnswer: ", 32)
            for stop in ("\n\n", "\nQuestion", "Question:"):
                response = response.split(stop)[0]
            said.append(response)
            _score(asked.answer, response)
        responses[name] = said
    generation = time.perf_counter() - start
    start = time.perf_counter()
    scores = {
        split: [_attacks(model, tokenizer, text) for text in getattr(records.membership, split)]
        for split in ("forget", "retain", "holdout")
    }
    return (
        {"generation": generation, "membership": time.perf_counter() - start},
        {"responses": responses, "scores": scores},
    )


def _complete(model: Any, tokenizer: Any, prompt: str, tokens: int) -> str:
    ids = tokenizer(prompt, return_tensors="pt").input_ids.to(model.device)
    output = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    new = output[:, ids.shape[1] :]
    return tokenizer.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=True)[0]


def _score(truth: str, response: str) -> object:
    return RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=False).score(truth, response)


def _token_log_probabilities(model: Any, tokenizer: Any, text: str) -> tuple[list[float], float]:
    ids = torch.tensor(tokenizer.encode(text)).unsqueeze(0).to(model.device)
    with torch.no_grad():
        output = model(ids, labels=ids)
    logs = torch.nn.functional.log_softmax(output.logits, dim=-1)
    return [logs[0, place, token].item() for place, token in enumerate(ids[0][1:])], output.loss.item()


def _attacks(model: Any, tokenizer: Any, text: str) -> dict[str, float]:
    values, nll = _token_log_probabilities(model, tokenizer, text)
    _, lowered = _token_log_probabilities(model, tokenizer, text.lower())
    scores = {"PPL": nll, "PPL/lower": nll / lowered, "PPL/zlib": nll / len(zlib.compress(text.encode()))}
    for share in ATTACK_SHARES:
        lowest = sorted(values)[: int(len(values) * share)]
        scores[f"Min-{round(100 * share)}%"] = -statistics.fmean(lowest)
    return scores


# --- model and records -------------------------------------------------------------------------------------


def _model(shape: str, words: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=words,
        max_position_embeddings=8_192,
        tie_word_embeddings=False,  # as in Llama-2
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=0.06,  # large enough that one token leads and texts differ
        **SHAPES[shape],
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).float().eval()


def _first(records: EvaluationRecords, prompts: int, texts: int) -> EvaluationRecords:
    def asked(questions: QuestionSet | None) -> QuestionSet | None:
        return None if questions is None else replace(questions, questions=questions.questions[:prompts])

    splits = records.membership
    assert records.verbatim is not None and splits is not None  # noqa: PT018 (no test)
    return EvaluationRecords(
        verbatim=records.verbatim[:prompts],
        forget_questions=asked(records.forget_questions),
        retain_questions=asked(records.retain_questions),
        membership=MembershipTexts(splits.forget[:texts], splits.retain[:texts], splits.holdout[:texts]),
    )


def _records(corpus: str | None, count: int) -> tuple[EvaluationRecords, Any]:
    """Records and a tokenizer for them."""
    if corpus is None:
        return _synthetic(count)
    records = MuseDataModule(corpus).records_alone()
    assert records.membership is not None
    splits = records.membership
    return records, train_tokenizer([*splits.forget, *splits.retain, *splits.holdout], WORDS)


def _synthetic(count: int) -> tuple[EvaluationRecords, Any]:
    """Made-up words, one token each, in records of NEWS' lengths."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    fixed = ["<bos>", "<eos>", "<pad>", "<unk>", "\n", ":", "Question", "Answer"]
    lexicon = [a + b + c for a in syllables for b in syllables for c in syllables][: WORDS - len(fixed)]
    core = Tokenizer(models.WordLevel({word: place for place, word in enumerate([*fixed, *lexicon])}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\n|:| "), "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    drawn = random.Random(0)

    def say(tokens: int) -> str:
        return " ".join(drawn.choices(lexicon, k=drawn.randint(tokens * 9 // 10, tokens * 11 // 10)))

    def questions(number: int) -> tuple[Question, ...]:
        return tuple(Question(say(QUESTION), say(ANSWER)) for _ in range(number))

    return (
        EvaluationRecords(
            verbatim=tuple(VerbatimPrompt(say(PROMPT), say(TRUTH)) for _ in range(count)),
            forget_questions=QuestionSet(questions(count), questions(10)),
            retain_questions=QuestionSet(questions(count), questions(10)),
            membership=MembershipTexts(*(tuple(say(TEXT) for _ in range(count)) for _ in range(3))),
        ),
        tokenizer,
    )


def _table(result: dict[str, Any]) -> str:
    reference, ours = result["seconds"]["reference"], result["seconds"]["ours"]
    rows = [
        f"{result['parameters'] / 1e6:.1f}M parameters, {result['device']}, {result['threads']} threads, "
        f"{result['corpus']}, {result['records']['prompts']} prompts, {result['records']['texts']} texts a split",
        "",
        "| | one at a time, s | batched, s | ratio |",
        "|---|---|---|---|",
        f"| M1, M2, M4 | {reference['generation']:.1f} | {ours['generation']:.1f} "
        f"| {result['speedup_generation']:.1f} |",
        f"| M3 | {reference['membership']:.1f} | {ours['membership']:.1f} | {result['speedup_membership']:.1f} |",
        f"| M1 to M4 | {sum(reference.values()):.1f} | {ours['generation'] + ours['membership']:.1f} "
        f"| {result['speedup']:.1f} |",
        f"| M1 to M4 and all other attacks | {sum(reference.values()):.1f} "
        f"| {ours['generation'] + ours['membership_all_attacks']:.1f} "
        f"| {result['speedup_with_all_attacks']:.1f} |",
        "",
        f"responses identical: {result['identical_responses']}; "
        f"largest difference of a text's score: {result['largest_score_difference']:.1e}",
    ]
    return "\n".join(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer records; within 50 s on two cores")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--corpus", help="folder in MUSE's layout, in place of synthetic records")
    parser.add_argument("--llama", choices=SHAPES, default="small", help="shape of the model")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
