"""What does a QUAIL step cost beside a GA_GDR step? One command, one table of ratios measured in one run.

    python benchmarks/training_step.py [--quick] [--json FILE]

Shapes: `body`, whose head holds at most 5 % of the parameters as in a 7B model, and `head`, 32k tokens over a
small body, where the loss dominates. Steps: (a) GA_GDR, with plain logits and with fused head losses, the faster
of which is the denominator; (b) QUAIL with the reference cache, as this package trains; (c) QUAIL as the
published code does it: a second model, full logits of all three passes. Every repetition runs all of them, in
turn; the ratios are medians over the repetitions. Memory is the allocator's peak over one step, above what is held
before it (weights, optimizer state, the second model's weights).

On a GPU it also times a random Llama of 1B or 7B shape (--llama 1b 7b): tokens/s, MFU, peak memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quail_lightning.data.batch import TokenBatch
from quail_lightning.functional.chunked import head_terms
from quail_lightning.functional.head import Head
from quail_lightning.functional.hinge import hinge
from quail_lightning.functional.token_likelihood import log_likelihood
from quail_lightning.models.activations import Activations, activations
from quail_lightning.objectives import GradientAscent, GradientDescent, LogitHinge
from quail_lightning.reference import Arithmetic, CachedStates, FrozenOutputs, Request
from quail_lightning.run.processes import Processes
from quail_lightning.unlearning.losses import term_losses

GAMMA = 8.0
LEARNING_RATE = 1e-5
H200_BF16_FLOPS = 989e12  # dense, as the vendor states it


@dataclass(frozen=True)
class Shape:
    """A Llama and the windows of one step: ``batch`` forget and ``batch`` retain windows of ``length`` tokens."""

    name: str
    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    length: int
    batch: int

    @property
    def label(self) -> str:
        return f"{self.name}, {self.batch} × {self.length} tokens a set"


def body(length: int, batch: int) -> Shape:
    return Shape("body", vocabulary=1536, width=384, inner=1024, layers=8, heads=6, length=length, batch=batch)


def head(length: int, batch: int) -> Shape:
    return Shape("head", vocabulary=32_000, width=256, inner=704, layers=2, heads=4, length=length, batch=batch)


LLAMAS = {
    "1b": Shape("Llama 1B", 32_000, 2048, 5632, 22, 32, 2048, 2),
    "7b": Shape("Llama 7B", 32_000, 4096, 11008, 32, 32, 2048, 1),
}


def build(shape: Shape, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.length,
        tie_word_embeddings=shape.name in ("body", "head"),
    )
    with device:
        model = LlamaForCausalLM(config).to(dtype)
    return model.train()


def windows(shape: Shape, device: torch.device, seed: int) -> TokenBatch:
    drawn = torch.randint(
        3, shape.vocabulary, (shape.batch, shape.length), generator=torch.Generator().manual_seed(seed)
    ).to(device)
    return TokenBatch(drawn, drawn, torch.arange(shape.batch))


# --- the steps, each from cleared gradients to cleared gradients ---------------------------------------


@dataclass
class Setting:
    """What the steps share: one model, its optimizer, the windows, the cached reference, the arithmetic."""

    model: Any
    optimizer: torch.optim.Optimizer
    forget: TokenBatch
    retain: TokenBatch
    reference: CachedStates
    autocast: torch.dtype | None

    def forward(
        self,
        model: Any,
        input_ids: Tensor,
        layers: tuple[int, ...] = (),
        perturbations: Mapping[int, Tensor] | None = None,
    ) -> Activations:
        with self.arithmetic():
            return activations(model, input_ids, layers, perturbations)

    def arithmetic(self) -> Any:
        device = self.forget.input_ids.device.type
        return torch.autocast(device, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None)

    @property
    def head_dtype(self) -> torch.dtype:
        return self.autocast or next(self.model.parameters()).dtype

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def ga_gdr_plain(setting: Setting) -> None:
    for batch, sign in ((setting.forget, -1.0), (setting.retain, 1.0)):
        with setting.arithmetic():
            logits = setting.model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1].float()
        (sign * F.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten())).backward()
    setting.update()


def ga_gdr_fused(setting: Setting) -> None:
    for batch, term in ((setting.forget, GradientAscent()), (setting.retain, GradientDescent())):
        losses = term_losses(
            setting.model, {"loss": term}, batch, FrozenOutputs(), setting.forward, setting.head_dtype
        )
        losses["loss"].backward()
    setting.update()


def quail(setting: Setting) -> None:
    terms = {"forget": GradientAscent(), "hinge": LogitHinge(1.0)}
    frozen = setting.reference.outputs("forget", setting.forget)
    losses = term_losses(setting.model, terms, setting.forget, frozen, setting.forward, setting.head_dtype)
    (losses["forget"] + GAMMA * losses["hinge"]).backward()
    kept = term_losses(
        setting.model,
        {"retain": GradientDescent()},
        setting.retain,
        FrozenOutputs(),
        setting.forward,
        setting.head_dtype,
    )
    kept["retain"].backward()
    setting.update()


def published(setting: Setting, target: Any) -> None:
    """QUAIL with a second model and full logits of every pass, as the published code computes it."""
    with torch.no_grad(), setting.arithmetic():
        reference = target(input_ids=setting.forget.input_ids, use_cache=False).logits[:, :-1].float()
    with setting.arithmetic():
        logits = setting.model(input_ids=setting.forget.input_ids, use_cache=False).logits[:, :-1].float()
    ascent = -F.cross_entropy(logits.flatten(0, 1), setting.forget.labels[:, 1:].flatten())
    margin = F.relu(0.5 - (logits - reference).abs()).mean()
    (ascent + GAMMA * margin).backward()
    del logits, reference, ascent, margin
    with setting.arithmetic():
        logits = setting.model(input_ids=setting.retain.input_ids, use_cache=False).logits[:, :-1].float()
    F.cross_entropy(logits.flatten(0, 1), setting.retain.labels[:, 1:].flatten()).backward()
    setting.update()


# --- measuring ------------------------------------------------------------------------------------------


def seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(step: Callable[[], None], device: torch.device) -> int:
    """The allocator's peak over a step, above what was held before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        step()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def in_turn(steps: Mapping[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every step, all of them in every repetition."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # warm
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(seconds(step, device))
    return times


def ratio(times: Mapping[str, list[float]], over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def measure_steps(
    shape: Shape, repeats: int, device: torch.device, autocast: torch.dtype | None
) -> dict[str, Any]:
    """Times and peaks of (a), (b), (c) on one shape."""
    model, target = build(shape, device), build(shape, device).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            model,
            torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0),
            windows(shape, device, 1),
            windows(shape, device, 2),
            CachedStates(folder),
            autocast,
        )
        requests = {"forget": Request(setting.forget.input_ids.cpu(), frozenset({"logits"}))}
        arithmetic = Arithmetic(setting.forward, setting.head_dtype, shape.batch, device)
        setting.reference.prepare(requests, lambda: target, {"benchmark": shape.name}, arithmetic, Processes())
        steps = {
            "ga_gdr_plain": lambda: ga_gdr_plain(setting),
            "ga_gdr_fused": lambda: ga_gdr_fused(setting),
            "quail": lambda: quail(setting),
            "published": lambda: published(setting, target),
        }
        times = in_turn(steps, repeats, device)
        peaks = {name: peak_bytes(step, device) for name, step in steps.items()}
    median = {name: statistics.median(found) for name, found in times.items()}
    base = min(("ga_gdr_plain", "ga_gdr_fused"), key=median.__getitem__)
    share = shape.vocabulary * shape.width / sum(parameter.numel() for parameter in model.parameters())
    return {
        "head_share": share,
        "denominator": base,
        "seconds": median,
        "peak_bytes": peaks,
        "time_quail_over_ga_gdr": ratio(times, "quail", base),
        "time_quail_over_published": ratio(times, "quail", "published"),
        "time_plain_over_denominator": ratio(times, "ga_gdr_plain", base),
        "memory_quail_over_ga_gdr": peaks["quail"] / peaks[base],
        "memory_published_over_ga_gdr": peaks["published"] / peaks[base],
    }


def measure_head_loss(shape: Shape, repeats: int, device: torch.device) -> dict[str, float]:
    """The loss alone (GA and hinge, from hidden states to gradients), fused against plain."""
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(shape.batch, shape.length, shape.width, generator=generator).to(device)
    frozen_states = states + 0.02 * torch.randn(states.shape, generator=generator).to(device)
    weight = 0.05 * torch.randn(shape.vocabulary, shape.width, generator=generator).to(device)
    labels = torch.randint(0, shape.vocabulary, states.shape[:2], generator=generator).to(device)
    states.requires_grad_()
    live, frozen = weight.clone().requires_grad_(), Head(weight)
    margin = LogitHinge(1.0)

    def fused() -> None:
        flat = frozen_states.flatten(0, 1)
        functions = (log_likelihood, margin.needs.tokens[0])
        values = head_terms(states, labels, Head(live), functions, lambda rows: frozen.logits(flat[rows]))
        (values[0].mean() + GAMMA * values[1].mean()).backward()
        states.grad = live.grad = None

    def plain() -> None:
        logits = states @ live.T
        with torch.no_grad():
            reference = frozen_states @ weight.T
        likelihood = -F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        (likelihood + GAMMA * hinge(logits, reference, 1.0, dead_zone=1e-3).mean()).backward()
        states.grad = live.grad = None

    times = in_turn({"plain": plain, "fused": fused}, repeats, device)
    return {
        "head_loss_memory_over_plain": peak_bytes(fused, device) / peak_bytes(plain, device),
        "head_loss_time_over_plain": ratio(times, "fused", "plain"),
    }


def measure_llama(shape: Shape, device: torch.device, steps: int, precision: str) -> dict[str, float]:
    """QUAIL steps of a random Llama on a GPU, activations checkpointed; one window of each kind a pass."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    model = build(shape, device, dtype)
    model.gradient_checkpointing_enable()
    with tempfile.TemporaryDirectory() as folder:
        from quail_lightning.unlearning.optimizers import adamw

        optimizer = adamw(
            list(model.parameters()),
            weight_precision="float32" if precision == "float32" else "bf16-stochastic",
            states="8bit" if precision == "bf16-8bit" else "full",
            learning_rate=LEARNING_RATE,
            weight_decay=0.0,
            betas=(0.9, 0.999),
        )
        setting = Setting(
            model,
            optimizer,
            windows(shape, device, 1),
            windows(shape, device, 2),
            CachedStates(folder),
            torch.bfloat16,
        )
        requests = {"forget": Request(setting.forget.input_ids.cpu(), frozenset({"logits"}))}
        arithmetic = Arithmetic(setting.forward, torch.bfloat16, shape.batch, device)
        setting.reference.prepare(requests, lambda: model, {"benchmark": shape.name}, arithmetic, Processes())
        torch.cuda.reset_peak_memory_stats()
        times = in_turn({"quail": lambda: quail(setting)}, steps, device)["quail"]
    tokens = 2 * shape.batch * shape.length
    parameters = sum(parameter.numel() for parameter in model.parameters())
    attention = 12 * shape.layers * shape.width * shape.length  # FLOPs a token, forward and backward
    flops = tokens * (6 * (parameters - shape.vocabulary * shape.width) + attention)
    return {
        "seconds": statistics.median(times),
        "tokens_per_second": tokens / statistics.median(times),
        "mfu": flops / statistics.median(times) / H200_BF16_FLOPS,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


# --- the table ------------------------------------------------------------------------------------------


def main() -> None:
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autocast = torch.bfloat16 if device.type == "cuda" else None
    repeats = 4 if options.quick else 15
    shapes = [body(256, 2)] if options.quick else [body(256, 4), body(1024, 1), head(256, 4), head(1024, 1)]
    found: dict[str, Any] = {"hardware": _hardware(device), "threads": torch.get_num_threads()}
    print(f"{found['hardware']}, {found['threads']} threads, torch {torch.__version__}\n")
    print("| shape | head | QUAIL / GA_GDR | QUAIL / published | GA_GDR plain / fastest | peak QUAIL / GA_GDR "
          "| peak published / GA_GDR |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for number, shape in enumerate(shapes):
        row = measure_steps(shape, repeats, device, autocast)
        found[shape.label] = row
        if number == 0:
            found |= {name: row[name] for name in row if name.startswith(("time_quail", "memory_quail"))}
        cells = [
            f"{row['head_share']:.1%}",
            *(f"{row[name]:.3f}" for name in row if name.startswith(("time", "memory"))),
        ]
        print(f"| {shape.label} | {' | '.join(cells)} |", flush=True)
    print("\n| loss alone | time / plain | peak memory / plain |\n|---|---|---|")
    for number, shape in enumerate([head(1024, 2)] if options.quick else [head(1024, 2), head(256, 8)]):
        row = measure_head_loss(shape, 2 if options.quick else 7, device)
        found[f"loss, {shape.label}"] = row
        if number == 0:
            found |= row
        time_ratio, memory_ratio = row["head_loss_time_over_plain"], row["head_loss_memory_over_plain"]
        print(f"| {shape.label} | {time_ratio:.3f} | {memory_ratio:.3f} |")
    for name in options.llama:
        if device.type != "cuda":
            raise SystemExit("--llama needs a GPU")
        for precision in ("float32", "bf16", "bf16-8bit"):
            row = measure_llama(LLAMAS[name], device, 5, precision)
            found[f"{LLAMAS[name].name}, {precision}"] = row
            shown = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"{LLAMAS[name].label}, {precision}: {shown}", flush=True)
            gc.collect()
            torch.cuda.empty_cache()
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    models = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8").splitlines() if path.is_file() else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one shape of each kind, fewer repetitions")
    parser.add_argument("--json", type=Path, help="write every figure there")
    parser.add_argument("--llama", nargs="*", choices=LLAMAS, default=[], help="random Llamas, on a GPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
