"""Causal language models in Hugging Face format: load, check, save."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quail_lightning.durable import publish
from quail_lightning.errors import InputError
from quail_lightning.locks import hold, lock_beside, released_afterwards
from quail_lightning.masking import masked
from quail_lightning.privacy import share_by_umask
from quail_lightning.terminal import step

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PROVENANCE = "provenance.json"


def load_config(name_or_path: str) -> PreTrainedConfig:
    """The config of a checkpoint, without its weights.

    Raises:
        InputError: there is none, or the hub cannot be reached.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(name_or_path, error) from error


def load_model(name_or_path: str, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model in ``dtype``, in evaluation mode; safetensors only, never by remote code.

    Raises:
        InputError: no such checkpoint, no safetensors weights in it, the hub cannot be reached, or a package that
            reads its quantized format is missing.
    """
    from transformers import AutoModelForCausalLM

    try:
        # dtype here and not .to(dtype) later: .to() would round the rotary frequencies as well
        with step(f"loading {name_or_path}"):
            return AutoModelForCausalLM.from_pretrained(
                name_or_path, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
    except ImportError as error:
        raise InputError(
            f"the format of {name_or_path!r} needs a package ({str(error).splitlines()[0]})",
            remedy="Install it; for the classic GPTQ and AWQ formats: pip install 'quail-lightning[gptqmodel]'",
        ) from error
    except (OSError, ValueError) as error:
        raise _unloadable(name_or_path, error) from error


def save_model(
    model: PreTrainedModel, tokenizer: Any, folder: Path, provenance: Mapping[str, Any], card: str | None = None
) -> None:
    """Write model, tokenizer and ``provenance.json`` to a folder that does not exist yet, whole or not at all.

    Others may read it as the umask has it.

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
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        noted = masked(provenance)
        (partial / PROVENANCE).write_text(json.dumps(noted, indent=2, default=str) + "\n", "utf-8")
        if card is not None:
            (partial / "README.md").write_text(card, "utf-8")
        share_by_umask(partial, mode)
        publish(partial, folder)


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What ``save_model`` noted beside the weights; None where the checkpoint is not one of ours."""
    path = folder / PROVENANCE
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def weights_digest(name_or_path: str) -> dict[str, str]:
    """What tells a checkpoint from any other: the SHA-256 of each weight file; of a hub name, its commit."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return {name_or_path: str(getattr(load_config(name_or_path), "_commit_hash", None))}
    digests = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file, step(f"reading {path} for its digest"):
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


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
    return InputError(
        f"no model could be loaded from {name_or_path!r} ({str(error).splitlines()[0]})",
        allowed="a folder in Hugging Face format with safetensors weights, or a name on the hub",
        remedy="`quail finetune` makes a target and a retrained model",
    )
