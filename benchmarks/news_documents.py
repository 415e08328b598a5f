"""A small part of MUSE NEWS with the benchmark's own records for it, chosen by a rule.

    python benchmarks/news_documents.py --corpus FOLDER --out FOLDER

Whole documents are chosen, so that every record can be answered from what a model is taught:

- forget: the documents that --prompts verbatim prompts span, those that span the least text first, and documents
  with --questions of the benchmark's forget questions, those with the least text a question first;
- retain: of sust/forget_2 … forget_4 without the documents of raw/forget, those with a retain question, then
  further ones until both sets are as long;
- records: the chosen verbatim prompts, every question of the chosen documents, the benchmark's in-context pairs;
- membership: equally long starts of documents of each set and of holdout texts, a dozen at most.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOUND = 0.8  # share of a question's words, weighted by their rarity, that its document holds
MEMBERSHIP, TEXTS = 2000, 12  # characters of a membership text, about 450 tokens, and most texts a set
FOLDS = ("forget_2", "forget_3", "forget_4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="MUSE NEWS as a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the part, in the same layout")
    parser.add_argument("--prompts", type=int, default=8, help="verbatim prompts")
    parser.add_argument("--questions", type=int, default=8, help="forget questions")
    options = parser.parse_args()
    print(write_part(options.corpus, options.out, options.prompts, options.questions))


def write_part(corpus: Path, out: Path, prompts: int = 8, questions: int = 8) -> str:
    """Choose the documents and write them with their records; says how many of each.

    Args:
        corpus: MUSE NEWS in the benchmark's folder layout.
        out: where the same layout is written; it does not exist yet.
        prompts: verbatim prompts to choose.
        questions: forget questions to choose, those of the prompts' documents beside them.
    """
    read = lambda part: json.loads((corpus / f"{part}.json").read_text("utf-8"))  # noqa: E731
    documents: list[str] = read("raw/forget")
    spans = sorted(_spans(documents, read("verbmem/forget")), key=lambda each: (each[0], each[1]))[:prompts]
    asked = _questions(documents, read("knowmem/forget_qa"))
    chosen = {index for _, _, span in spans for index in span}
    held = 0
    for index in sorted(asked, key=lambda each: len(documents[each]) / len(asked[each])):
        if held >= questions:
            break
        chosen.add(index)
        held += len(asked[index])
    forget = [documents[index] for index in sorted(chosen)]

    known = set(documents)
    others = [each for fold in FOLDS for each in read(f"sust/{fold}") if each not in known]
    others = list(dict.fromkeys(others))
    kept = _questions(others, read("knowmem/retain_qa"))
    picked = list(kept)
    for index in range(len(others)):
        if sum(len(others[each]) for each in picked) >= sum(map(len, forget)):
            break
        if index not in kept:
            picked.append(index)
    retain = [others[index] for index in sorted(picked)]

    verbatim = read("verbmem/forget")
    parts: dict[str, list[Any]] = {
        "raw/forget": forget,
        "raw/retain1": retain,
        "verbmem/forget": [verbatim[record] for _, record, _ in spans],
        "knowmem/forget_qa": [each for index in sorted(chosen) for each in asked.get(index, [])],
        "knowmem/retain_qa": [each for index in sorted(kept) for each in kept[index]],
        "knowmem/forget_qa_icl": read("knowmem/forget_qa_icl"),
        "knowmem/retain_qa_icl": read("knowmem/retain_qa_icl"),
        "privleak/forget": _starts(forget),
        "privleak/retain": _starts(retain),
        "privleak/holdout": _starts(read("privleak/holdout")),
    }
    partial = out.with_name(f".{out.name}.partial")
    for part, records in parts.items():
        path = partial / f"{part}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", "utf-8")
    partial.rename(out)  # whole or not at all
    return ", ".join(f"{part} {len(records)}" for part, records in parts.items())


def _starts(documents: Sequence[str]) -> list[str]:
    """Of documents that are long enough, since a score over fewer tokens has another spread."""
    return [each[:MEMBERSHIP] for each in documents if len(each) >= MEMBERSHIP][:TEXTS]


def _spans(documents: Sequence[str], verbatim: Sequence[Mapping[str, str]]) -> Iterable[tuple[int, int, range]]:
    """Length, record and documents of every verbatim record that stands in the joined documents as a whole."""
    ends, total = [], 0
    for document in documents:
        total += len(_folded(document)) + 1
        ends.append(total)
    joined = " ".join(map(_folded, documents))
    for record, each in enumerate(verbatim):
        for between in ("", " "):  # the benchmark strips the prompt's end
            text = _folded(each["prompt"] + between + each["gt"]).strip()
            start = joined.find(text)
            if start >= 0:
                first = sum(end <= start for end in ends)
                last = sum(end <= start + len(text) - 1 for end in ends)
                span = range(first, last + 1)
                yield sum(len(documents[index]) for index in span), record, span
                break


def _questions(
    documents: Sequence[str], questions: Sequence[Mapping[str, str]]
) -> dict[int, list[Mapping[str, str]]]:
    """Document → the questions it answers: it holds the answer, and nearly all of the question's rare words."""
    folded = [_folded(document).lower() for document in documents]
    words = [set(re.findall(r"[a-z0-9']+", text)) for text in folded]
    often = Counter(word for held in words for word in held)
    found: dict[int, list[Mapping[str, str]]] = defaultdict(list)
    for each in questions:
        asked = set(re.findall(r"[a-z0-9']+", each["question"].lower()))
        weights = {word: math.log(len(documents) / (1 + often[word])) for word in asked}
        holds = [index for index, text in enumerate(folded) if _folded(each["answer"]).lower() in text]
        if holds:
            share = {index: sum(weights[word] for word in asked & words[index]) for index in holds}
            best = max(holds, key=share.__getitem__)
            if share[best] > FOUND * sum(weights.values()):
                found[best].append(each)
    return dict(found)


def _folded(text: str) -> str:
    """All white space as single spaces."""
    return re.sub(r"\s+", " ", text)


if __name__ == "__main__":
    main()
