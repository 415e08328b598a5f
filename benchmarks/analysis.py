"""What `quail analyze` costs: its time over that of reading both checkpoints once, and its peak memory.

    python benchmarks/analysis.py [--quick] [--json FILE]

Writes pairs of random bfloat16 checkpoints of a Llama's shape to a temporary folder (4 GB at 1B parameters), then
reads and analyzes them in turn, in one process, with the papers' set: 16, 8 and 4 bits, global and tensor-wise.
Both times are of files in the page cache; reading is with plain reads into one buffer of 16 MiB. The start of
Python and its libraries is in neither. Times are medians, the peak is of the whole measuring process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHAPE = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 8}
VOCABULARY = 32_000
LAYERS = {"quick": (1, 4), "full": (5, 21)}  # the larger full one has 1.00B parameters
REPETITIONS = 3
READ_BUFFER = 2**24  # bytes


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sizes = LAYERS["quick" if options.quick else "full"]
        for layers in sizes:
            _child("write", Path(folder), layers)
        measured = [_child("measure", Path(folder), layers) for layers in sizes]
    print(_table(measured))
    largest = measured[-1]
    content = {
        "time_over_read": largest["time_over_read"],
        "peak_gib": max(row["peak_gib"] for row in measured),
        "ns_per_parameter": [row["ns_per_parameter"] for row in measured],
        "cpu_ns_per_parameter": [row["cpu_ns_per_parameter"] for row in measured],
        "parameters": [row["parameters"] for row in measured],
    }
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _child(step: str, folder: Path, layers: int) -> Any:
    """A process of its own, so that what writing takes is not counted as analyzing's memory."""
    command = [sys.executable, __file__, "--step", step, "--layers", str(layers), "--folder", str(folder)]
    found = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(found.stdout or "null")


def _write(folder: Path, layers: int) -> None:
    """A target and an unlearned model, a file a layer: random values that are drawn once and shifted."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(layers)
    pool = torch.randn(2**24, generator=generator) * 0.02
    moved = pool + 5e-5 * torch.randn(2**24, generator=generator)
    for name, values in (("target", pool.bfloat16()), ("unlearned", moved.bfloat16())):
        out = folder / f"{name}-{layers}"
        out.mkdir()
        weight_map = {}
        for number, (shard, shapes) in enumerate(_shards(layers)):
            tensors = {}
            for position, (tensor, shape) in enumerate(shapes.items()):
                start = (number * 7919 + position * 104_729) % len(values)
                size = torch.Size(shape).numel()
                repeated = torch.cat([values[start:], *[values] * (size // len(values) + 1)])[:size]
                tensors[tensor] = repeated.reshape(shape).clone()
                weight_map[tensor] = shard
            save_file(tensors, out / shard)
        (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        config = SHAPE | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
        config |= {"num_hidden_layers": layers, "vocab_size": VOCABULARY, "tie_word_embeddings": False}
        (out / "config.json").write_text(json.dumps(config))


def _shards(layers: int) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    width, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    keys = width // SHAPE["num_attention_heads"] * SHAPE["num_key_value_heads"]
    yield (
        "ends.safetensors",
        {
            "model.embed_tokens.weight": (VOCABULARY, width),
            "model.norm.weight": (width,),
            "lm_head.weight": (VOCABULARY, width),
        },
    )
    for layer in range(layers):
        within = {
            "self_attn.q_proj.weight": (width, width),
            "self_attn.k_proj.weight": (keys, width),
            "self_attn.v_proj.weight": (keys, width),
            "self_attn.o_proj.weight": (width, width),
            "mlp.gate_proj.weight": (inner, width),
            "mlp.up_proj.weight": (inner, width),
            "mlp.down_proj.weight": (width, inner),
            "input_layernorm.weight": (width,),
            "post_attention_layernorm.weight": (width,),
        }
        yield (
            f"layer-{layer}.safetensors",
            {f"model.layers.{layer}.{name}": shape for name, shape in within.items()},
        )


def _measure(folder: Path, layers: int) -> dict[str, float]:
    from quail_lightning.commands.analyze import analyze

    target, unlearned = (folder / f"{name}-{layers}" for name in ("target", "unlearned"))
    files = [*target.glob("*.safetensors"), *unlearned.glob("*.safetensors")]
    _read(files)  # into the page cache
    ratios, walls, cpus, reads, parameters = [], [], [], [], 0
    for _ in range(REPETITIONS + 1):
        begun = time.perf_counter()
        _read(files)
        read = time.perf_counter() - begun
        begun, cpu = time.perf_counter(), time.process_time()
        found = analyze(target, unlearned, formats=()).comparison
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        parameters = found.changes["all"].count
        ratios.append(wall / read)
        walls.append(wall)
        cpus.append(cpu)
        reads.append(read)
    kept = slice(1, None)  # the first one imports libraries
    return {
        "parameters": parameters,
        "read_s": statistics.median(reads[kept]),
        "analyze_s": statistics.median(walls[kept]),
        "time_over_read": statistics.median(ratios[kept]),
        "ns_per_parameter": statistics.median(walls[kept]) / parameters * 1e9,
        "cpu_ns_per_parameter": statistics.median(cpus[kept]) / parameters * 1e9,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _read(files: list[Path]) -> None:
    buffer = memoryview(bytearray(READ_BUFFER))
    for file in files:
        descriptor, position = os.open(file, os.O_RDONLY), 0
        while found := os.preadv(descriptor, [buffer], position):
            position += found
        os.close(descriptor)


def _table(measured: list[dict[str, float]]) -> str:
    lines = [
        "| parameters | read both, s | analyze, s | ratio | ns/parameter | CPU ns/parameter | peak, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        lines.append(
            f"| {row['parameters'] / 1e9:.2f}B | {row['read_s']:.2f} | {row['analyze_s']:.2f} | "
            f"{row['time_over_read']:.1f} | {row['ns_per_parameter']:.1f} | {row['cpu_ns_per_parameter']:.1f} | "
            f"{row['peak_gib']:.2f} |"
        )
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="0.17B and 0.31B parameters instead of 0.35B and 1B")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--step", choices=("write", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "write":
        _write(options.folder, options.layers)
    elif options.step == "measure":
        print(json.dumps(_measure(options.folder, options.layers)))
    if options.step:
        raise SystemExit
    return options


if __name__ == "__main__":
    main()
