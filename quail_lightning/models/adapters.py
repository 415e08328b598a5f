"""A LoRA adapter's folder in peft's layout: found, checked by names and shapes, and merged with its base.

W' = W + s · B A, with s = alpha / rank (Hu et al. 2021, section 4.1), or alpha / √rank (rsLoRA).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.models.casting import Cast
from quail_lightning.models.loading_report import some
from quail_lightning.models.non_finite import is_broken
from quail_lightning.models.weight_files import ADAPTER, DTYPES, INDEX, SINGLE, StoredTensor, tensors_in
from quail_lightning.storage.adapter_bases import base_named, converted_base, is_place
from quail_lightning.storage.readable import check_json_objects, check_readable, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
BASE_DIGEST = "base_sha256"
"""Key of ``provenance.json``: the base's ``weights_digest`` when the adapter was trained."""

PREFIX = "base_model.model."  # of every name in the file
NAME = re.compile(rf"{re.escape(PREFIX)}(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

ABOUT = {"peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode", "megatron_core"}
OF_BASE = {"base_model_name_or_path", "revision", "fan_in_fan_out", "ensure_weight_tying"}
OF_CHANGE = {"r", "lora_alpha", "use_rslora", "lora_dropout", "init_lora_weights", "bias", "qalora_group_size"}
OF_LAYERS = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
PLAIN = ABOUT | OF_BASE | OF_CHANGE | OF_LAYERS
"""Keys of ``adapter_config.json`` that leave W + s · B A the whole of it; any other that is set makes it more."""

INITIALIZATIONS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Those that leave the base's weights as they are; PiSSA, OLoRA, CorDA and LoftQ change them."""


class AdapterFolder(NamedTuple):
    """An adapter on disk.

    Attributes:
        folder: that holds it.
        base: checkpoint whose weights it changes: a folder, or a name on the hub.
        config: what peft noted.
    """

    folder: Path
    base: str
    config: Mapping[str, Any]

    @property
    def scaling(self) -> float:
        """s."""
        rank = self.config["r"]
        return float(self.config["lora_alpha"]) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    @property
    def transposed(self) -> bool:
        """The base's layers hold [inputs, outputs] (GPT-2's Conv1D)."""
        return bool(self.config.get("fan_in_fan_out"))


def adapter_in(name_or_path: str) -> AdapterFolder | None:
    """The adapter that a folder holds; None for any other checkpoint.

    Raises:
        InputError: it lies beside full weights, is no plain LoRA, names no base, or one that is not there.
    """
    folder, base = Path(name_or_path), base_in(name_or_path)
    if base is None:
        return None
    return AdapterFolder(folder, converted_base(folder, base), read_json(folder / ADAPTER))


def base_in(name_or_path: str) -> str | None:
    """What an adapter's folder names as its base, which may be a GGUF file; None for any other checkpoint.

    Raises:
        InputError: see ``adapter_in``.
    """
    folder = Path(name_or_path)
    if not (folder / ADAPTER).exists():
        return None
    if any((folder / name).exists() for name in (SINGLE, INDEX)):
        raise InputError(
            f"{folder} holds full weights and an adapter ({ADAPTER}), and does not say which of the two is meant",
            remedy="Take the files of one of the two out of it",
        )
    check_json_objects(folder, (ADAPTER,))
    config: dict[str, Any] = read_json(folder / ADAPTER)
    _refuse_other_kinds(folder, config)
    return _base(folder, config)


def lora_change(a: Tensor, b: Tensor, scaling: float, transposed: bool) -> Tensor:
    """s · B A, in float32.

    Args:
        a: [rank, inputs].
        b: [outputs, rank].
        scaling: s.
        transposed: give [inputs, outputs] instead of [outputs, inputs].
    """
    change = scaling * (b.float() @ a.float())
    return change.T if transposed else change


def check_adapter(adapter: AdapterFolder, model: PreTrainedModel) -> None:
    """See that an adapter's file is whole and fits its base, from names and shapes alone.

    Args:
        adapter: to be merged.
        model: the base's architecture; may be on the meta device.

    Raises:
        InputError: no safetensors, a damaged file, or matrices that are missing, left over or of another shape.
    """
    matrices = _matrices(adapter)
    weights, rank = dict(model.named_parameters()), adapter.config["r"]
    lacking = [module for module in matrices if f"{module}.weight" not in weights]
    if lacking:
        raise _other_base(adapter, f"the base has no {some([f'{module}.weight' for module in lacking])}")
    for module, sides in matrices.items():
        if missing := {"A", "B"} - sides.keys():
            raise _not_whole(adapter, f"{module} has no lora_{missing.pop()}")
        shape = tuple(weights[f"{module}.weight"].shape)
        outputs, inputs = reversed(shape) if adapter.transposed else shape
        found, wanted = (sides["A"].shape, sides["B"].shape), ((rank, inputs), (outputs, rank))
        if found != wanted:
            raise _other_base(adapter, f"{module} has matrices of {found}, rank and base ask for {wanted}")
    expected = _targets(
        adapter, {name.removesuffix(".weight") for name, each in weights.items() if each.ndim == 2}
    )
    if absent := sorted(expected - matrices.keys()):
        raise _not_whole(adapter, f"nothing is there of {some(absent)}, which its config names")


def merge(model: PreTrainedModel, adapter: AdapterFolder, cast: Cast) -> PreTrainedModel:
    """Add an adapter to its base, weight by weight in float32, and cast every weight; in place.

    Args:
        model: the base, in the dtype that it is stored in.
        adapter: see ``check_adapter``.
        cast: to the result's dtype.

    Raises:
        InputError: NaN or infinity in the adapter, or in what it makes.
    """
    from safetensors import safe_open

    modules = _matrices(adapter).keys()
    with safe_open(adapter.folder / WEIGHTS, framework="pt") as stored:
        for name, parameter in model.named_parameters():
            module, value = name.removesuffix(".weight"), parameter.detach()
            if module in modules:
                a, b = (stored.get_tensor(f"{PREFIX}{module}.lora_{side}.weight") for side in "AB")
                value = value.float() + lora_change(a, b, adapter.scaling, adapter.transposed)
            parameter.data = cast(name, value)
            if is_broken(parameter.data):
                raise InputError(
                    f"{name} holds NaN or infinity once the adapter {adapter.folder} is merged with its base",
                    remedy="The training that made it diverged, or the file is damaged: take another checkpoint",
                )
    model.config.dtype = cast.dtype
    return model


def refuse_spread(name_or_path: str) -> None:
    """Refuse an adapter where each process reads its own rows of the weights (FSDP2).

    Raises:
        InputError: with the remedy.
    """
    if (adapter := adapter_in(name_or_path)) is not None:
        raise InputError(
            f"{adapter.folder} is an adapter, which is merged whole, and FSDP2 loads a model in shares",
            remedy=f"Write the merged model first: quail quantize {adapter.folder} --to bf16 --out NEW_FOLDER",
        )


def refuse_other_base(adapter: AdapterFolder, digest: Mapping[str, str], provenance: Mapping[str, Any]) -> None:
    """Refuse a base whose weights are not those that the adapter was trained on.

    Args:
        adapter: whose base it is.
        digest: of the base's weights now.
        provenance: noted beside the adapter; that of another program notes no digest.

    Raises:
        InputError: they differ.
    """
    noted = provenance.get(BASE_DIGEST)
    if isinstance(noted, dict) and noted != dict(digest):
        raise _other_base(
            adapter, f"the SHA-256 of its weights is not the one in {adapter.folder}/provenance.json"
        )


def _refuse_other_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    more = sorted(key for key, value in config.items() if key not in PLAIN and _is_set(value))
    if config.get("bias", "none") != "none":
        more.append("bias")
    if config.get("init_lora_weights") not in INITIALIZATIONS:
        more.append("init_lora_weights")
    kind = config.get("peft_type")
    if kind != "LORA" or more:
        raise InputError(
            f"{folder} is an adapter of another kind than plain LoRA on linear layers",
            given=", ".join(f"{key}: {config[key]}" for key in more) or f"peft_type: {kind}",
            allowed="peft_type: LORA, and nothing that changes more than W + s B A",
            remedy="Merge it by the program that made it, and name the merged model",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    sound = isinstance(rank, int) and rank is not True and rank > 0
    if not sound or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InputError(
            f"{folder} is an adapter whose {ADAPTER} is damaged", given=f"r: {rank}, lora_alpha: {alpha}"
        )


def _is_set(value: Any) -> bool:
    """Whether an option is more than its absence: nested ones count by what they hold."""
    return any(map(_is_set, value.values())) if isinstance(value, dict) else bool(value)


def _base(folder: Path, config: Mapping[str, Any]) -> str:
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise InputError(
            f"{folder} is an adapter, and its {ADAPTER} does not name its base",
            remedy="Set base_model_name_or_path there to the checkpoint that it was trained on",
        )
    base = base_named(folder, named)
    if Path(base).is_absolute() and not is_place(Path(base)):
        raise InputError(
            f"{folder} is an adapter, and its base is missing: there is no folder {named}",
            remedy=f"Put it there, or set base_model_name_or_path in {ADAPTER} to where it lies now",
        )
    if config.get("revision") not in (None, "main"):
        raise InputError(
            f"{folder} is an adapter of a certain revision of its base",
            given=f"revision: {config['revision']}",
            remedy="Download that revision and set base_model_name_or_path to its folder, revision to null",
        )
    if (Path(base) / ADAPTER).exists():
        raise InputError(
            f"{folder} is an adapter, and its base {named} is an adapter itself",
            remedy=f"Write the merged base first: quail quantize {named} --to bf16 --out NEW_FOLDER",
        )
    return base


def _matrices(adapter: AdapterFolder) -> dict[str, dict[str, StoredTensor]]:
    """Module → ``A`` and ``B``, as far as they are there.

    Raises:
        InputError: no safetensors file, a damaged one, or one that holds something else.
    """
    file = adapter.folder / WEIGHTS
    if not file.exists():
        pickled = (adapter.folder / PICKLED).exists()
        raise InputError(
            f"{adapter.folder} is an adapter without {WEIGHTS}",
            remedy=f"{PICKLED} is a pickle, which can run code: save it anew as safetensors" if pickled else None,
        )
    check_readable(file)
    found: dict[str, dict[str, StoredTensor]] = {}
    for name, stored in tensors_in(file).items():
        matched = NAME.fullmatch(name)
        if matched is None or stored.dtype not in DTYPES:
            raise InputError(
                f"{name} ({stored.dtype}) in {file} is no LoRA matrix of a linear layer",
                allowed=f"{PREFIX}<layer>.lora_A.weight and .lora_B.weight, in {', '.join(DTYPES)}",
                remedy="Merge it by the program that made it, and name the merged model",
            )
        found.setdefault(matched["module"], {})[matched["side"]] = stored
    if not found:
        raise _not_whole(adapter, f"{WEIGHTS} holds nothing")
    return found


def _targets(adapter: AdapterFolder, modules: set[str]) -> set[str]:
    """The modules that the config names, where it names them plainly."""
    named = adapter.config.get("target_modules")
    if any(_is_set({key: adapter.config.get(key)}) for key in ("exclude_modules", "layers_to_transform")):
        return set()
    if isinstance(named, str):
        return {module for module in modules if re.fullmatch(named, module)}
    endings = tuple(f".{name}" for name in named or ())
    return {module for module in modules if f".{module}".endswith(endings)}


def _other_base(adapter: AdapterFolder, what: str) -> InputError:
    return InputError(
        f"{adapter.folder} is an adapter for another base than {adapter.base}: {what}",
        remedy=f"Name the checkpoint that it was trained on by base_model_name_or_path in {ADAPTER}",
    )


def _not_whole(adapter: AdapterFolder, what: str) -> InputError:
    return InputError(
        f"the adapter {adapter.folder} is not whole: {what}", remedy="Copy or download it again, its config too"
    )
