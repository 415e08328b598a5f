"""What can fail when a model is saved is tried before it is trained."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quail_lightning.errors import InputError
from quail_lightning.storage.disk_room import refuse_too_little_room

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

MARGIN = 32 * 2**20  # bytes: tokenizer, configs and the file system's own


def try_saving(model: PreTrainedModel, tokenizer: Any, folder: Path, weights: float) -> None:
    """Save everything but the weights into a folder beside the final one, and remove it again.

    Args:
        model: as it will be saved; its weights are not touched and may be on the meta device.
        tokenizer: saved with it.
        folder: where the model is to be saved.
        weights: bytes that the weights will take there.

    Raises:
        InputError: no right to write there, too little room, or the config or the tokenizer cannot be saved.
    """
    trial = _trial_folder(folder)
    try:
        refuse_too_little_room("the saved model", weights + MARGIN, folder, "Make room, or save to another disk")
        with savable_generation(model):
            model.save_pretrained(trial, state_dict={})
        tokenizer.save_pretrained(trial)
    except InputError:
        raise
    except Exception as error:  # whatever makes saving fail now would make it fail when the weights are trained
        raise InputError(
            f"the model could not be saved to {folder} ({' '.join(str(error).split())[:300]})",
            remedy="Mend the config or the tokenizer of the checkpoint that is started from",
        ) from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)


@contextmanager
def savable_generation(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model has a generation config that the library saves: weights are never lost for its sake.

    Older folders (Llama 2, Vicuna) set temperature or top_p and leave do_sample out, which the library loads and
    refuses to save. The model's own is back afterwards.
    """
    own = getattr(model, "generation_config", None)
    if own is None or not (problem := _problem(own)):
        yield
        return
    model.generation_config, changed = _mended(own, model.config)
    print(f"The generation config cannot be saved as it is ({problem}); saved with {changed}.", flush=True)
    try:
        yield
    finally:
        model.generation_config = own


def _mended(own: GenerationConfig, config: PreTrainedConfig) -> tuple[GenerationConfig, str]:
    """One that can be saved, and what was changed."""
    from transformers import GenerationConfig

    sampling = copy.deepcopy(own)
    sampling.do_sample = True  # what temperature and top_p mean, and how the models' makers mended theirs
    if not _problem(sampling):
        return sampling, "do_sample: true"
    return GenerationConfig.from_model_config(config), "the model's own token ids alone"


def _problem(config: GenerationConfig) -> str | None:
    """Why the library refuses to save it."""
    try:
        config.validate(strict=True)
    except (ValueError, TypeError) as error:
        return " ".join(str(error).split())[:200].rstrip(".")
    return None


def _trial_folder(folder: Path) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{folder.name}.trial-", dir=folder.parent))
    except OSError as error:
        raise InputError(
            f"the model could not be saved to {folder} ({error.strerror}: {error.filename})",
            remedy="Choose a folder that can be written to",
        ) from error


def weight_bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Bytes of a model's weights in a dtype; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
