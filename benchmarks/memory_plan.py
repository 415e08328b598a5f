"""Print the memory plan of 7B runs, GiB a device: ``python benchmarks/memory_plan.py``."""

from collections.abc import Mapping
from dataclasses import replace

from quail_lightning.unlearning.memory_plan import (
    CONTEXT,
    EvaluationMemory,
    Run,
    Sizes,
    adapter_weights,
    memory_plan,
)

LLAMA_2_7B = Sizes(6_738_415_616, 6_738_415_616, 202_383_360, 32, 4096, 11008, 32000)
LLAMA_2_70B = Sizes(68_976_648_192, 68_976_648_192, 855_654_400, 80, 8192, 28672, 32000)
TOKENS = 2 * 2048  # two windows a pass
SHARDS = EvaluationMemory(sharded=True)
RUNS = {
    "4 × A100-40GB, FSDP2": (39.4, Run(4, True, TOKENS)),
    "4 × A100-40GB, FSDP2, evaluation in shards": (39.4, Run(4, True, TOKENS, evaluation_memory=SHARDS)),
    "4 × A100-80GB, FSDP2": (79.2, Run(4, True, TOKENS)),
    "8 × A100-80GB, FSDP2": (79.2, Run(8, True, TOKENS)),
    "8 × A100-80GB, FSDP2, without checkpointing": (79.2, Run(8, True, TOKENS, gradient_checkpointing=False)),
    "8 × A100-80GB, DDP, float32 masters": (79.2, Run(8, False, TOKENS)),
    "1 × A100-80GB, one_a100.yaml": (79.2, Run(1, False, TOKENS // 2, "bf16-stochastic", "8bit")),
    "1 × A100-80GB, one_a100_offload.yaml": (79.2, Run(1, False, TOKENS // 2, "float32", "offloaded")),
    "8 × A100-80GB, DDP, one_a100's weights": (79.2, Run(8, False, TOKENS // 2, "bf16-stochastic", "8bit")),
}


FOUR_BITS = EvaluationMemory(bits=4)
ADAPTER_RUNS = {
    "1 × 24 GB, one_24gb.yaml": (23.5, Run(1, False, TOKENS // 2, base="nf4", evaluation_memory=FOUR_BITS)),
    "the same, evaluated at int8, too": (23.5, Run(1, False, TOKENS // 2, base="nf4")),
    "1 × A100-40GB, lora.yaml": (39.4, Run(1, False, TOKENS // 2, base="bfloat16")),
}
LARGE_RUNS = {
    "32 × A100-80GB, FSDP2": (79.2, Run(32, True, TOKENS // 2, evaluation_memory=EvaluationMemory(bits=4))),
    "32 × A100-80GB, FSDP2, evaluation in shards": (
        79.2,
        Run(32, True, TOKENS // 2, evaluation_memory=EvaluationMemory(True, 4)),
    ),
}


def main() -> None:
    """One row a plan."""
    table("Llama-2-7B", LLAMA_2_7B, RUNS)
    adapted = replace(LLAMA_2_7B, trained=adapter_weights(LLAMA_2_7B, 16))
    table("Llama-2-7B, an adapter of rank 16, one window a pass", adapted, ADAPTER_RUNS)
    table("Llama-2-70B, one window a pass, 4 bits", LLAMA_2_70B, LARGE_RUNS)


def table(title: str, sizes: Sizes, runs: Mapping[str, tuple[float, Run]]) -> None:
    """A row a run: GiB by term, and whether they fit the device's."""
    plans = {name: (capacity, memory_plan(sizes, run)) for name, (capacity, run) in runs.items()}
    columns = list(next(iter(plans.values()))[1])
    print(f"| {title} | " + " | ".join(columns) + " | fits |")
    print("|---" * (len(columns) + 2) + "|")
    for name, (capacity, plan) in plans.items():
        cells = " | ".join(f"{plan[column]:.1f}" for column in columns)
        print(f"| {name} | {cells} | {'yes' if plan['total'] + CONTEXT <= capacity else 'no'} |")


if __name__ == "__main__":
    main()
