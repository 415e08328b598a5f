"""`quail finetune`: make a target (forget + retain) or a retrained reference (retain only)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from quail_lightning.callbacks.progress import progress_bars
from quail_lightning.conversion.located import located
from quail_lightning.data.protocol import TextData
from quail_lightning.data.text_digests import TEXTS, text_digests
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.finetuning import Hardware, Optimization, train
from quail_lightning.functional.masking import side_by_side
from quail_lightning.models.arithmetic import Precision, device_type, emulation_notice, training_precision
from quail_lightning.models.checkpoint import (
    check_fits,
    check_whole,
    load_config,
    load_model,
    read_provenance,
    weights_digest,
)
from quail_lightning.models.rescue import save_or_rescue
from quail_lightning.models.saving import try_saving, weight_bytes
from quail_lightning.models.tiny import tiny_llama, train_tokenizer
from quail_lightning.storage.durable import check_writable
from quail_lightning.storage.locks import hold, lock_beside, released_afterwards
from quail_lightning.terminal import step

Sets = Literal["forget+retain", "retain"]


@dataclass(frozen=True)
class TinyModel:
    """A small Llama from scratch, with a tokenizer trained on the forget and retain documents.

    Attributes:
        vocab_size: tokens the tokenizer may learn.
        width, layers, heads: of the Llama.
        positions: longest input, tokens.
    """

    vocab_size: int = 2048
    width: int = 256
    layers: int = 4
    heads: int = 4
    positions: int = 512


@dataclass(frozen=True)
class FinetuneRecipe:
    """Everything that decides what a fine-tuned model becomes, beside its data.

    Attributes:
        base: checkpoint to start from, a folder or a hub name; or
        tiny: a small model from scratch. Exactly one of the two.
        optimization: epochs, learning rate, ...; the defaults are MUSE's.
        precision: Lightning's name of the arithmetic; the weights are float32 in any case. None: what the device
            multiplies natively. It is noted beside the model then, and does not tell one model from another.
        export_dtype: dtype of the saved weights.
        seed: of the initial weights and of the windows' order.
    """

    base: str | None = None
    tiny: TinyModel | None = None
    optimization: Optimization = field(default_factory=Optimization)
    precision: Precision | None = None
    export_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    seed: int = 42

    def __post_init__(self) -> None:
        if (self.base is None) == (self.tiny is None):
            raise InputError(
                "a recipe starts from `base` (a checkpoint) or from `tiny` (from scratch), exactly one of the two",
                given={"base": self.base, "tiny": self.tiny},
            )


def is_made(recipe: FinetuneRecipe, data: TextData, sets: Sets, out: Path) -> bool:
    """Whether ``out`` holds just this model already.

    Raises:
        InputError: ``out`` holds something else.
    """
    return out.exists() and _is_reusable(out, _provenance(recipe, data, sets))


@released_afterwards()
def finetune(
    recipe: FinetuneRecipe,
    data: TextData,
    sets: Sets,
    out: Path,
    hardware: Hardware = Hardware(),  # noqa: B008 (frozen)
    alone: bool = False,
) -> bool:
    """Make the model and save it, unless ``out`` holds just this model already.

    Where another job is making ``out`` at the same time, one that works alone waits for it; any other is refused.

    Args:
        recipe: how.
        data: what; its windows are cut with the model's own tokenizer.
        sets: ``forget+retain`` makes a target, ``retain`` a retrained reference.
        out: folder of the result.
        hardware: devices and strategy.
        alone: this process does it by itself, whoever started it together with which others.

    Returns:
        whether a model was made; False where the one at hand was reused.

    Raises:
        InputError: ``out`` holds something else, which stays, or another process is making it.
    """
    check_writable(out, "the folder of the model")
    provenance = _provenance(recipe, data, sets)  # of what is read now, whatever changes on disk while training
    if out.exists() and _is_reusable(out, provenance):
        return False
    if getattr(rank_zero_only, "rank", 0) == 0:
        out.parent.mkdir(parents=True, exist_ok=True)
        hold(lock_beside(out), str(out), wait=alone)
        if out.exists() and _is_reusable(out, provenance):
            return False
    device = device_type(hardware.accelerator)
    precision = recipe.precision or training_precision(device)
    if notice := emulation_notice(precision, device):
        rank_zero_info(notice)
    model, tokenizer = _start(recipe, data)
    dtype = getattr(torch, recipe.export_dtype)
    try_saving(model, tokenizer, out, weight_bytes(model, dtype))
    with step("cutting the texts into windows"):
        windows = data.cut_windows(tokenizer)
    chosen = side_by_side(list(windows)) if sets == "forget+retain" else windows.retain
    trainer = train(model, chosen, recipe.optimization, precision, recipe.seed, hardware, progress_bars({}), alone)
    if trainer.is_global_zero:
        # the cast that load_model would make too: parameters only, never the rotary frequencies
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        model.config.dtype = dtype
        made = {"finished_epochs": trainer.current_epoch, "steps": trainer.global_step}
        save_or_rescue(
            model.eval(),
            tokenizer,
            out,
            provenance | made | {"hardware": asdict(hardware) | {"precision": precision}},
        )
    trainer.strategy.barrier()
    return True


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_subclass_arguments(LightningDataModule, "data")
    parser.add_argument("--recipe", type=FinetuneRecipe, help="what to start from and how to train")
    parser.add_argument("--sets", type=Sets, default="forget+retain", help="`retain` makes the retrained model")
    parser.add_argument("--out", type=str, required=True, help="folder of the result; nothing else may be in it")
    parser.add_class_arguments(Hardware)


def run(arguments: Any) -> None:
    """Carry the verb out."""
    arguments.data.check(with_records=False)
    hardware = Hardware(arguments.accelerator, arguments.devices, arguments.strategy)
    made = finetune(arguments.recipe, arguments.data, arguments.sets, Path(arguments.out), hardware)
    print(f"{'saved' if made else 'reused, fingerprint matches'}: {arguments.out}")


def _start(recipe: FinetuneRecipe, data: TextData) -> tuple[Any, Any]:
    if recipe.base is not None:
        (base,) = located([recipe.base])
        tokenizer = load_tokenizer(base)
        check_fits(load_config(base), tokenizer, data.max_len)
        return load_model(base, torch.float32), tokenizer
    assert recipe.tiny is not None
    documents = data.training_documents()
    # both sets, whichever is trained on: target and retrained model must read the same tokens
    with step("training a tokenizer"):
        tokenizer = train_tokenizer([*documents.forget, *documents.retain], recipe.tiny.vocab_size)
    sizes = asdict(recipe.tiny) | {"vocab_size": len(tokenizer)}
    model = tiny_llama(**sizes, seed=recipe.seed)
    check_fits(model.config, tokenizer, data.max_len)
    return model, tokenizer


def _provenance(recipe: FinetuneRecipe, data: TextData, sets: Sets) -> dict[str, Any]:
    """What decides the result, and its fingerprint."""
    texts = text_digests(data)
    (base,) = located([recipe.base]) if recipe.base is not None else (None,)
    if base is not None:
        check_whole(base, torch.float32)
    described_recipe = asdict(recipe)
    if not recipe.optimization.weight_decay:
        del described_recipe["optimization"]["weight_decay"]  # models made before there was one stay theirs
    described = {
        "made_by": "quail finetune",
        "sets": sets,
        "recipe": described_recipe,
        "base_sha256": {} if base is None else weights_digest(base),
        "corpus": data.corpus_name,
        TEXTS: texts,
        "max_len": data.max_len,
        "max_forget_windows": data.max_forget_windows,
        "max_retain_windows": data.max_retain_windows,
        **getattr(data, "answer_options", {}),  # of corpora that may hold question–answer pairs
    }
    # where the corpus lies does not decide what the model becomes; its text does, the holdout aside
    deciding = {name: value for name, value in described.items() if name != "corpus"}
    deciding[TEXTS] = {name: texts[name] for name in ("forget", "retain")}
    return described | {"fingerprint": _digest(deciding)}


def _is_reusable(out: Path, wanted: Mapping[str, Any]) -> bool:
    """True where ``out`` has the wanted fingerprint; anything else is refused with the parts that differ."""
    found = read_provenance(out) or {}
    if found.get("fingerprint") == wanted["fingerprint"]:
        return True
    wanted = json.loads(json.dumps(wanted))
    differing = [name for name in wanted if name != "fingerprint" and found.get(name) != wanted[name]]
    raise InputError(
        f"{out} holds another model than the one asked for (they differ in {', '.join(differing) or 'origin'})",
        remedy="Name another folder, or remove this one to make it anew",
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
