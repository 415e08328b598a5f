"""`quail harden`: move a few weights of an unlearned model so that formats bring back none of what it forgot."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import Tensor, nn

from quail_lightning.commands.device import named_device
from quail_lightning.commands.sixteen_bit import located_sixteen_bit
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmarks import Benchmark, load_benchmark
from quail_lightning.evaluation.intervals import bootstrap_mean, bootstrap_ratio
from quail_lightning.hardening import (
    ENOUGH,
    PORTION,
    Goal,
    Hardened,
    Nlls,
    Windows,
    forget_nlls,
    harden_model,
    nlls_of,
)
from quail_lightning.inference.encoding import positions
from quail_lightning.inference.likelihood import window_problem
from quail_lightning.models.arithmetic import compute_dtype
from quail_lightning.models.checkpoint import (
    check_whole,
    evaluated_dtype,
    load_config,
    load_model,
    read_provenance,
    weights_digest,
)
from quail_lightning.models.empty import empty_model, stored_generation_config
from quail_lightning.models.memory import check_main_memory
from quail_lightning.models.rescue import save_or_rescue
from quail_lightning.models.saving import try_saving, weight_bytes
from quail_lightning.quantization.computing import cast_weights
from quail_lightning.quantization.rounded_weights import WeightLevels
from quail_lightning.run.results import Estimate, Measure
from quail_lightning.run.tables import output_console
from quail_lightning.storage.durable import check_new
from quail_lightning.terminal import Bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HardenedModel:
    """What ``harden`` made.

    Attributes:
        folder: the checkpoint.
        before, after: NLLs at 16 bits.
        formats: precision → what became of it.
        came_back: precision → what windows fall short of their goals, as a share of the rise in forget NLL, before
            and after, with intervals over the windows.
    """

    folder: Path
    before: Nlls
    after: Nlls
    formats: Mapping[str, Hardened]
    came_back: Mapping[str, tuple[Measure, Measure]]

    @property
    def returning(self) -> list[str]:
        """Formats that still bring back more than ``ENOUGH`` of the rise."""
        pairs = ((name, after) for name, (_, after) in self.came_back.items())
        return [name for name, share in pairs if not isinstance(share, Estimate) or share.value > ENOUGH]

    def table(self) -> Table:
        """Before and after, a format a row."""
        table = Table(title="hardened", caption="NLL: nats a token, means over the windows")
        for heading in ("format", "forget NLL ↑", "came back, % ↓", "retain NLL ↓", "weights moved"):
            table.add_column(heading, justify="left" if heading == "format" else "right")
        table.add_row("16 bits", *_shown(self.before, self.after, "", ""))
        for name, found in self.formats.items():
            share = " → ".join(map(_percent, self.came_back[name]))
            table.add_row(name, *_shown(found.before, found.after, share, f"{found.moved:,}"))
        return table


def harden(
    target: str | Path,
    model: str | Path,
    precisions: str | Sequence[str],
    out: str | Path,
    benchmark: str | Benchmark,
    corpus: str | Path | None = None,
    data: Mapping[str, Any] | None = None,
    retrained: str | Path | None = None,
    device: str = "auto",
) -> HardenedModel:
    """Write an unlearned model as one of which formats bring nothing back.

    The weights that lie nearest to a boundary of a format are moved just across it, where the forget text grows
    unlikelier for it and the retain text does not, as few as will do (``hardening.moves``). It takes a backward
    pass over the forget and the retain windows, at most 64 of each set, for each format and round, and for every
    268 million weights.

    Args:
        target: what it was unlearned from, a folder or a hub name.
        model: the unlearned one. It is read and written in the dtype in which the run that made it evaluated it,
            models of others in bfloat16.
        precisions: formats that it is hardened for; those whose levels follow from the weights alone.
        out: folder of the result.
        benchmark: whose forget and retain text it is, a stem of ``configs/benchmark/*.yaml`` as of ``evaluate``.
        corpus: folder in the benchmark's layout.
        data: other options of the benchmark's data, such as ``{"forget": "my.txt", "retain": "other.txt"}``.
        retrained: never trained on the forget set. A window's goal is the NLL of this model at the same precision,
            or of the unlearned one at 16 bits where that is lower; None: the latter.
        device: that runs the models: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...

    Returns:
        Folder and figures. Its ``provenance.json`` is the model's, and says under ``hardened`` how it was made.

    Raises:
        InputError: what cannot be hardened, or of which nothing was forgotten at 16 bits; nothing is written.
        RunError: the disk filled meanwhile; says where the model lies instead.
    """
    out, where = Path(out), named_device(device)
    check_new(out, "out")
    asked = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    names = located_sixteen_bit([str(name) for name in (target, model, retrained) if name is not None])
    before, unlearned = names[:2]
    dtype = evaluated_dtype(unlearned) or torch.bfloat16
    held = compute_dtype(dtype, where)
    empty = empty_model(load_config(unlearned), dtype)
    empty.generation_config = stored_generation_config(unlearned, empty)
    levels = _levels([precisions] if isinstance(precisions, str) else precisions, empty)
    _refuse_other_shapes(empty, unlearned, names)
    for name in names:
        check_whole(name, held)
    tokenizer = _common_tokenizer(names)
    given = dict(data or {}) | ({} if corpus is None else {"corpus": str(corpus)})
    windows = _windows(asked, unlearned, given)
    slopes = 12 * min(PORTION, empty.num_parameters())
    check_main_memory(2 * weight_bytes(empty, held) + slopes, "the model with its rounded weights and slopes")
    try_saving(empty, tokenizer, out, weight_bytes(empty, dtype))

    def loaded(checkpoint: str) -> PreTrainedModel:
        found = load_model(checkpoint, dtype)
        nn.Module.to(found, where)
        cast_weights(found, held)
        return found

    digest, provenance = weights_digest(unlearned), read_provenance(Path(unlearned)) or {}
    with Bar() as bar:
        of_target = forget_nlls(loaded(before), None, windows.forget, bar.show)
        edited = loaded(unlearned)
        start = nlls_of(edited, None, windows, bar.show)
        if not _has_risen(of_target, start.forget):
            raise InputError(
                "nothing was forgotten at 16 bits, so that no format can bring it back",
                given=_means(start.forget, of_target),
                remedy="Unlearn first: quail fit",
            )
        of_never: list[Tensor] = []
        if len(names) == 3:
            never = loaded(names[2])
            of_never = [forget_nlls(never, each, windows.forget, bar.show) for each in (None, *levels.values())]
            del never
        goals = _goals(of_target, start.forget, of_never, levels)
        formats = harden_model(edited, levels, windows, goals, dtype, bar.show)
        end = nlls_of(edited, None, windows, bar.show)
    shares = {
        name: (_share(goals[name], found.before), _share(goals[name], found.after))
        for name, found in formats.items()
    }
    made = HardenedModel(out, start, end, formats, shares)
    noted = {
        "of": unlearned,
        "of_sha256": digest,
        "benchmark": asked.name,
        "windows": {name: len(rows) for name, rows in windows._asdict().items()},
        "moved": {name: found.moved for name, found in formats.items()},
    }
    nn.Module.to(edited, "cpu")
    cast_weights(edited, dtype)
    provenance |= {"export_dtype": str(dtype), "hardened": noted}
    save_or_rescue(edited, tokenizer, out, provenance, _card(made, unlearned, before))
    return made


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("target", type=str, help="what the model was unlearned from: a folder or a hub name")
    parser.add_argument("model", type=str, help="the unlearned model, 16 bits")
    parser.add_argument("--precisions", nargs="+", type=str, required=True, help="formats: fp4, q4_k_m, ...")
    parser.add_argument("--out", type=str, required=True, help="folder of the result; it must not exist")
    parser.add_argument("--benchmark", type=str, required=True, help="stem of configs/benchmark/*.yaml")
    parser.add_argument("--corpus", type=str | None, default=None, help="folder in the benchmark's layout")
    parser.add_argument("--data", type=dict[str, Any], default={}, help="other options of the benchmark's data")
    parser.add_argument(
        "--retrained", type=str | None, default=None, help="never trained on the forget set: where forgetting ends"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")


def run(arguments: Any) -> None:
    """Carry the verb out."""
    options = ("target", "model", "precisions", "out", "benchmark", "corpus", "data", "retrained", "device")
    made = harden(**{name: getattr(arguments, name) for name in options})
    output_console().print(made.table())
    print(f"saved: {made.folder}")
    if made.returning:
        print(
            f"{', '.join(made.returning)}: more than {ENOUGH:.0%} of the forgetting still comes back. Harden the "
            "result once more; what is left then would cost the retain text, or is in weights far from a boundary"
        )


def _refuse_other_shapes(empty: PreTrainedModel, model: str, names: Sequence[str]) -> None:
    shapes = {name: weight.shape for name, weight in empty.named_parameters()}
    for name in names:
        other = empty_model(load_config(name), torch.float32)
        if {key: weight.shape for key, weight in other.named_parameters()} != shapes:
            raise InputError("the models have weights of other names or sizes", given=f"{name} and {model}")


def _levels(precisions: Sequence[str], empty: PreTrainedModel) -> dict[str, WeightLevels]:
    if not precisions:
        raise InputError("there is no format to harden for", remedy="Name precisions, such as fp4 or q4_k_m")
    return {name: WeightLevels.of(name, empty) for name in precisions}


def _common_tokenizer(names: Sequence[str]) -> Any:
    """The unlearned model's, which is also that of the others."""
    tokenizers = {name: load_tokenizer(name) for name in names}
    common = tokenizers[names[1]]
    for name, tokenizer in tokenizers.items():
        if tokenizer.get_vocab() != common.get_vocab():
            raise InputError(
                "the models read the same windows, and their tokenizers differ",
                given=f"{name} and {names[1]}",
                remedy="Name models that were made of one another",
            )
    return common


def _windows(benchmark: Benchmark, model: str, given: Mapping[str, Any]) -> Windows:
    found = benchmark.read(model, given).windows
    if missing := [name for name in Windows._fields if name not in found]:
        raise InputError(
            f"the {' and '.join(missing)} text of {benchmark.name!r} is not at hand",
            remedy="Hardening makes the one unlikelier and spares the other: name both by --data or --corpus",
        )
    windows = Windows(*(found[name] for name in Windows._fields))
    for rows in windows:
        if problem := window_problem(rows, positions(load_config(model))):
            raise problem
    return windows


def _goals(target: Tensor, model: Tensor, never: Sequence[Tensor], formats: Collection[str]) -> dict[str, Goal]:
    """Of each format, by [n] NLLs; ``never``: of the retrained model at 16 bits and in each format, or empty."""
    risen = model.minimum(never[0]) if never else model
    if not _has_risen(target, risen):
        raise InputError(
            "the retrained model finds the forget text as likely as the target does",
            given=_means(never[0], target),
            remedy="Name a model that never saw the forget text",
        )
    caps = never[1:] or [model] * len(formats)
    return {name: Goal(risen.minimum(cap), risen - target) for name, cap in zip(formats, caps, strict=True)}


def _has_risen(target: Tensor, other: Tensor) -> bool:
    """Whether the forget text is unlikelier than to the target, by the interval of the [n] rises."""
    rise = bootstrap_mean((other - target).numpy())
    if not isinstance(rise, Estimate):
        raise InputError(f"the forget NLL cannot be compared with the target's: {rise.reason}")
    return rise.low > 0


def _means(other: Tensor, target: Tensor) -> str:
    return f"forget NLL {float(other.mean()):.3g}, the target's {float(target.mean()):.3g}"


def _share(goal: Goal, found: Nlls) -> Measure:
    return bootstrap_ratio(goal.gap(found).numpy(), goal.rise.numpy())


def _shown(before: Nlls, after: Nlls, came_back: str, moved: str) -> tuple[str, str, str, str]:
    forget, retain = (f"{a.mean():.3g} → {b.mean():.3g}" for a, b in zip(before, after, strict=True))
    return forget, came_back, retain, moved


def _percent(measure: Measure) -> str:
    if not isinstance(measure, Estimate):
        return "–"
    value, low, high = (f"{100 * figure:.1f}" for figure in (measure.value, measure.low, measure.high))
    return f"{value} ({low} to {high})"


def _card(made: HardenedModel, model: str, target: str) -> str:
    rows = [
        f"| {name} | {_percent(before)} | {_percent(after)} | {made.formats[name].moved:,} |"
        for name, (before, after) in made.came_back.items()
    ]
    return "\n".join(
        [
            f"---\nlibrary_name: transformers\nbase_model: {json.dumps(target)}\ntags: [unlearning]\n---",
            f"# {made.folder.name}\n",
            f"`{model}`, unlearned from `{target}`, with a few weights moved across the boundaries of formats,",
            "so that what was forgotten stays forgotten in them (`quail harden`). What each brings back of the",
            "forgetting, % of the rise in likelihood, with 95 % intervals:\n",
            "| format | before | after | weights moved |",
            "|---|---|---|---|",
            *rows,
            "\nOther formats deliver about what they delivered before. What a format quantizes besides the body's",
            "weights (embeddings and head of GGUF, activations of fp8) is not in these figures.\n",
        ]
    )
