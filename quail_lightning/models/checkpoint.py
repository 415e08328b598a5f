"""Causal language models in Hugging Face format: load, check, save."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from quail_lightning.errors import InputError
from quail_lightning.models.adapters import (
    WEIGHTS,
    AdapterFolder,
    adapter_in,
    check_adapter,
    merge,
    refuse_other_base,
    refuse_spread,
)
from quail_lightning.models.casting import Cast, Rounding, default_rounding
from quail_lightning.models.config_sizes import check_sizes, check_stored_sizes
from quail_lightning.models.digests import DIGESTS, refuse_changed
from quail_lightning.models.empty import empty_model
from quail_lightning.models.integrity import check_checkpoint
from quail_lightning.models.loading_report import refuse_incomplete, unfilled
from quail_lightning.models.non_finite import refuse_non_finite
from quail_lightning.models.saving import savable_generation
from quail_lightning.models.weight_files import ADAPTER, WeightFiles, shards
from quail_lightning.run.masking import masked
from quail_lightning.run.out_of_memory import first_line, is_out_of_memory
from quail_lightning.storage.durable import publish
from quail_lightning.storage.file_digests import file_digests
from quail_lightning.storage.gguf_files import ENDING
from quail_lightning.storage.locks import hold, lock_beside, released_afterwards
from quail_lightning.storage.privacy import share_by_umask
from quail_lightning.storage.readable import check_json_objects, check_readable, read_json, refuse_pipes
from quail_lightning.terminal import step

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CONFIG, PROVENANCE = "config.json", "provenance.json"


def load_config(name_or_path: str) -> PreTrainedConfig:
    """The config of a checkpoint, without its weights; of an adapter's folder its base's.

    Raises:
        InputError: there is none, or the hub cannot be reached.
    """
    from transformers import AutoConfig

    if (adapter := adapter_in(name_or_path)) is not None:
        return load_config(adapter.base)
    if is_folder := Path(name_or_path).is_dir():
        folder = Path(name_or_path)
        refuse_pipes(folder)
        check_json_objects(folder, (CONFIG, "generation_config.json"))
        if (folder / CONFIG).exists():
            check_stored_sizes(read_json(folder / CONFIG), name_or_path)
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:
        # what a config's values make the library raise is no matter of types; without a folder, only these are
        if not is_folder and not isinstance(error, (OSError, ValueError)):
            raise
        raise _unloadable(name_or_path, error) from error
    check_sizes(config, name_or_path)
    return config


def check_whole(name_or_path: str, dtype: torch.dtype, share: float = 1.0) -> None:
    """Refuse a folder that does not hold a whole model, before a weight is loaded; of a hub name, its config.

    Of a checkpoint that notes its files' digests they are taken, once in a process: whoever asks needs the digest
    or the weights next, which costs as much.

    Args:
        name_or_path: of the checkpoint.
        dtype: that it is to be loaded in.
        share: of its weights that this process is to hold.

    Raises:
        InputError: see ``check_checkpoint`` and ``check_adapter``; or files that are not those that were saved.
    """
    config, folder = load_config(name_or_path), Path(name_or_path)
    if (adapter := adapter_in(name_or_path)) is not None:
        if share < 1:
            refuse_spread(name_or_path)
        check_whole(adapter.base, dtype)
        if getattr(config, "quantization_config", None) is not None:
            raise InputError(
                f"the base {adapter.base!r} of the adapter {folder} is quantized, and nothing merges with that",
                remedy="Set base_model_name_or_path in adapter_config.json to the checkpoint before quantization",
            )
        check_adapter(adapter, empty_model(config, dtype))
        weights_digest(name_or_path)
        return
    if folder.is_dir():
        check_checkpoint(folder, config, dtype, share)
        if DIGESTS in (read_provenance(folder) or {}):
            weights_digest(name_or_path)


def load_model(name_or_path: str, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model in ``dtype``, in evaluation mode; safetensors only, never by remote code.

    An adapter's folder gives its base with the adapter merged, cast as the run that trained it casts.

    Nothing that is not whole is given back: of a folder the files' headers are looked at first, then the files'
    digests where ``provenance.json`` notes what they were; of any checkpoint the library's loading report and the
    values decide.

    Raises:
        InputError: no such checkpoint, no safetensors weights in it, the hub cannot be reached, a package that
            reads its quantized format is missing; or it is not whole, see ``check_checkpoint``.
    """
    from transformers import AutoModelForCausalLM

    check_whole(name_or_path, dtype)
    if (adapter := adapter_in(name_or_path)) is not None:
        return merge(load_model(adapter.base, stored_dtype(adapter.base)), adapter, _merging_cast(adapter, dtype))
    _refuse_adapter_on_hub(name_or_path)
    try:
        # dtype here and not .to(dtype) later: .to() would round the rotary frequencies as well
        with step(f"loading {name_or_path}"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name_or_path,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported, and refused below by name
            )
    except ImportError as error:
        raise InputError(
            f"the format of {name_or_path!r} needs a package ({str(error).splitlines()[0]})",
            remedy="Install it; for the classic GPTQ and AWQ formats: pip install 'quail-lightning[gptqmodel]'",
        ) from error
    except (OSError, ValueError) as error:
        raise _unloadable(name_or_path, error) from error
    except RuntimeError as error:
        # what is missing of a quantized layer or of a mixture's experts ends loading before it can be reported
        if is_out_of_memory(error):
            raise
        empty = empty_model(load_config(name_or_path), dtype)
        parameters, base = dict(empty.named_parameters()), empty.base_model_prefix
        stored = WeightFiles(name_or_path).stored
        raise unfilled(name_or_path, stored, parameters, base, first_line(error)) from error
    model: PreTrainedModel = loaded[0]
    refuse_incomplete(name_or_path, loaded[1])
    refuse_non_finite(name_or_path, model, dtype)
    return model


def save_model(
    model: PreTrainedModel, tokenizer: Any, folder: Path, provenance: Mapping[str, Any], card: str | None = None
) -> None:
    """Write model, tokenizer and ``provenance.json`` to a folder that does not exist yet, whole or not at all.

    Others may read it as the umask has it. The digests of the weight files are noted with the provenance, so that
    later damage is seen.

    Args:
        model: as it is to be loaded again.
        tokenizer: its own.
        folder: made with its parents.
        provenance: what the model is and how it was made.
        card: text of the ``README.md`` beside the weights.

    Raises:
        InputError: the folder exists already.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already", remedy="Name another folder, or remove it first")
    partial = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with released_afterwards():
        hold(lock_beside(folder), str(folder))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        mode = stat.S_IMODE(partial.stat().st_mode)  # what the umask leaves
        with savable_generation(model):
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        noted = masked({**provenance, DIGESTS: file_digests(partial, _weight_files(partial))})
        (partial / PROVENANCE).write_text(json.dumps(noted, indent=2, default=str) + "\n", "utf-8")
        if card is not None:
            (partial / "README.md").write_text(card, "utf-8")
        share_by_umask(partial, mode)
        publish(partial, folder)


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What ``save_model`` noted beside the weights; None where the checkpoint is not one of ours."""
    check_json_objects(folder, (PROVENANCE,))
    path = folder / PROVENANCE
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def weights_digest(name_or_path: str) -> dict[str, str]:
    """What tells a checkpoint from any other: the SHA-256 of each weight file; of a hub name, its commit.

    The files are those that are loaded: all that the index names, wherever they lie below the folder, and of an
    adapter its base's as well (``base/<name>``). Each is read once in a process. Here, and so wherever a digest is
    taken or a model loaded, it is compared with what ``save_model`` noted; a folder of another program notes none.

    Raises:
        InputError: a file is missing, or not what was saved; or an adapter's base is not what it was trained on.
    """
    folder, adapter = Path(name_or_path), adapter_in(name_or_path)
    if not folder.is_dir():
        return {name_or_path: str(getattr(load_config(name_or_path), "_commit_hash", None))}
    files, provenance = _weight_files(folder), read_provenance(folder) or {}
    for path in files:
        check_readable(path)
    digests = file_digests(folder, files)
    refuse_changed(folder, digests, provenance)
    if adapter is None:
        return digests
    of_base = weights_digest(adapter.base)
    refuse_other_base(adapter, of_base, provenance)
    return digests | {f"base/{name}": digest for name, digest in of_base.items()}


def evaluated_dtype(name_or_path: str) -> torch.dtype | None:
    """The dtype in which the run that made a checkpoint evaluated it; None of those that no run here exported."""
    noted = str((read_provenance(Path(name_or_path)) or {}).get("export_dtype", "")).removeprefix("torch.")
    found = getattr(torch, noted, None)
    return found if isinstance(found, torch.dtype) else None


def stored_dtype(name_or_path: str) -> torch.dtype:
    """The dtype that holds a checkpoint's weights as they are stored, by its config."""
    stored = load_config(name_or_path).dtype
    return stored if stored in (torch.bfloat16, torch.float16) else torch.float32


def _refuse_adapter_on_hub(name_or_path: str) -> None:
    """The library takes such a name for the adapter's base, where the weights beside it are what was checked.

    Raises:
        InputError: the hub's files hold an adapter.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    if not Path(name_or_path).is_dir() and find_adapter_config_file(name_or_path) is not None:
        raise InputError(
            f"{name_or_path!r} on the hub holds full weights and an adapter ({ADAPTER})",
            remedy="Download it, take the files of one of the two out of it, and name the folder",
        )


def _weight_files(folder: Path) -> list[Path]:
    return [folder / WEIGHTS] if (folder / ADAPTER).exists() else shards(folder)


def _merging_cast(adapter: AdapterFolder, dtype: torch.dtype) -> Cast:
    """As the run that trained the adapter casts what it evaluates and exports; nothing is noted by others."""
    noted = read_provenance(adapter.folder) or {}
    own: list[Rounding] = [each for each in get_args(Rounding) if each == noted.get("export_rounding")]
    seed = noted.get("export_seed")
    return Cast(
        dtype,
        own[0] if own else default_rounding(stored_dtype(adapter.base)),
        seed if isinstance(seed, int) else 0,
    )


def check_fits(config: PreTrainedConfig, tokenizer: Any, max_len: int) -> None:
    """See that a model can read windows of ``max_len`` tokens made by ``tokenizer``.

    Raises:
        InputError: the tokenizer knows more tokens than the model, or a window is longer than its positions.
    """
    text = config.get_text_config()
    if len(tokenizer) > text.vocab_size:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has {len(tokenizer)} tokens but the model's vocabulary "
            f"has only {text.vocab_size}",
            remedy="Use the tokenizer the checkpoint was trained with",
        )
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and max_len > positions:
        raise InputError(
            f"a window of {max_len} tokens is longer than the model's {positions} positions",
            remedy=f"Set data.max_len to at most {positions}",
        )


def _unloadable(name_or_path: str, error: Exception) -> InputError:
    said, folder = " ".join(str(error).split())[:300], Path(name_or_path)
    if not folder.is_dir():
        where = "it is a file" if folder.exists() else "there is no such folder, and the hub does not give it"
        said = f"{where} ({said})"
    elif not (folder / CONFIG).exists():
        said = f"the folder is no checkpoint in Hugging Face format, it holds no {CONFIG}"
    remedy = "`quail finetune` makes a target and a retrained model"
    if folder.suffix.lower() == ENDING or any(folder.glob(f"*{ENDING}")):
        remedy = f"`quail convert {name_or_path}` makes such a folder of a GGUF file"
    return InputError(
        f"no model could be loaded from {name_or_path!r}: {said}",
        allowed="a folder in Hugging Face format with safetensors weights, or a name on the hub",
        remedy=remedy,
    )
