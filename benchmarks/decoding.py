"""Does the evaluation's own decoding pay beside the library's generate? One command, one table of ratios.

    python benchmarks/decoding.py [--json FILE]

Random Llamas in float32 on one thread; both decode greedily in one batch, the library with a mask and padding on
the left. Every repetition runs both, in turn; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quail_lightning.inference.decoding import Decoding, continuations, left_pad, prefix_cache
from quail_lightning.models.tiny import tiny_llama
from quail_lightning.storage.durable import write_json

REPEATS, VOCABULARY, POSITIONS = 4, 2048, 2048


@dataclass(frozen=True)
class Work:
    """Prompts of one kind.

    Attributes:
        name: of the row.
        shared: tokens that all prompts begin with.
        shortest, longest: tokens of the prompts.
        rows: prompts in the batch.
        new: tokens of each completion.
        width, layers: of the Llama.
    """

    name: str
    shared: int
    shortest: int
    longest: int
    rows: int
    new: int
    width: int = 256
    layers: int = 4


WORKS = (
    Work("questions behind ten worked pairs", 500, 510, 540, 32, 16),
    Work("continuations, prompts of one length", 0, 150, 160, 24, 64),
    Work("continuations, prompts of all lengths", 0, 100, 900, 16, 16),
    Work("the same, 8 layers of width 512", 0, 400, 1500, 8, 8, 512, 8),
)


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    found = [_measured(work) for work in WORKS]
    print("| prompts | own, s | library, s | library / own | same tokens |\n|---|---|---|---|---|")
    for row in found:
        print(
            f"| {row['prompts']} | {row['own']:.2f} | {row['library']:.2f} | {row['ratio']:.2f} | {row['same']} |"
        )
    if options.json is not None:
        write_json(options.json, {"rows": found})


def _measured(work: Work) -> dict[str, Any]:
    model = tiny_llama(
        vocab_size=VOCABULARY, width=work.width, layers=work.layers, heads=8, positions=POSITIONS, seed=1
    ).eval()
    draw = random.Random(0)
    shared = [draw.randrange(3, VOCABULARY) for _ in range(work.shared)]
    lengths = [draw.randint(work.shortest, work.longest) - work.shared for _ in range(work.rows)]
    rows = [shared + [draw.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]
    how = Decoding(work.new, frozenset(), work.layers, (), lambda tokens: "", None)

    def own() -> list[list[int]]:
        return continuations(model, rows, how, prefix_cache(model, shared), None)

    def library() -> list[list[int]]:
        ids, mask = left_pad(rows, 0)
        made: Any = model.generate(
            ids, attention_mask=mask, max_new_tokens=work.new, do_sample=False, pad_token_id=0, eos_token_id=-1
        )
        return made[:, ids.shape[1] :].tolist()

    ways: dict[str, Callable[[], list[list[int]]]] = {"own": own, "library": library}
    times: dict[str, list[float]] = {name: [] for name in ways}
    said: dict[str, list[list[int]]] = {}
    with torch.no_grad():
        for _ in range(REPEATS):
            for name, way in ways.items():
                began = time.perf_counter()
                said[name] = way()
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    same = sum(one == other for one, other in zip(said["own"], said["library"], strict=True))
    ratio = medians["library"] / medians["own"]
    return {"prompts": work.name} | medians | {"ratio": ratio, "same": f"{same} of {work.rows}"}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
