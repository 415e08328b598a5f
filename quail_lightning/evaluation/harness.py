"""Tasks of the LM Evaluation Harness on a model that is already in memory."""

from __future__ import annotations

import copy
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_lightning.configuration.allowed_code import code_refused, is_code_allowed
from quail_lightning.data.opening import opening_text, opening_tokens
from quail_lightning.errors import InputError
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.inference.encoding import encode
from quail_lightning.inference.modes import evaluation_mode
from quail_lightning.run.results import Measure

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def import_harness() -> Any:
    """The package ``lm_eval``.

    Raises:
        InputError: it is not installed.
    """
    try:
        import lm_eval
    except ImportError as error:
        raise InputError(
            f"the LM Evaluation Harness cannot be imported ({error})",
            remedy="pip install 'quail-lightning[eval]', or leave general and truthful out of suite.utility",
        ) from error
    return lm_eval


def check_task(task: str, task_folder: str | None) -> None:
    """See that the harness is there and knows a task, without loading the task's data.

    Args:
        task: its name, or its group's.
        task_folder: of further task files; None: the harness's own alone.

    Raises:
        InputError: the harness or the folder is missing, or there is no such task.
    """
    manager = _manager(task_folder)
    if task not in manager.all_tasks:
        raise InputError(
            f"the LM Evaluation Harness has no task {task!r}",
            given=task_folder,
            remedy="Name the folder of its task files in suite.utility.task_folder",
        )


def harness_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    shots: int | None,
    batch_size: int | None,
    task_folder: str | None = None,
    limit: int | None = None,
) -> Measure:
    """Accuracy of a task, or over all questions of a group, × 100, with its own interval.

    The model is handed over, not loaded again; mode and random states are left as they were. Questions open as
    every other metric's prompts do (``opening_tokens``).

    Args:
        model: a causal language model on its device.
        tokenizer: its own.
        task: a harness task or group, such as ``mmlu`` or ``truthfulqa_mc1``.
        shots: worked examples before each question; None: the task's own number.
        batch_size: requests in one forward pass; None: 8, since the harness knows of no free memory.
        task_folder: of further task files, which may read local data (``dataset_path: json``).
        limit: the first so many questions of each task; None: all.

    Raises:
        InputError: the harness is missing, the task is unknown, or its data cannot be loaded.
    """
    from lightning.pytorch.utilities.seed import isolate_rng

    harness = import_harness()
    manager = _manager(task_folder)
    from lm_eval.models.huggingface import HFLM

    try:
        with isolate_rng(), evaluation_mode(model):  # HFLM's constructor, too, puts the model into evaluation mode
            # a copy: the harness gives the tokenizer a padding token
            evaluated = _opening_as_ours(HFLM)(
                pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size or 8
            )
            results = harness.simple_evaluate(
                model=evaluated,
                tasks=[task],
                num_fewshot=shots,
                limit=limit,
                task_manager=manager,
                bootstrap_iters=0,
                log_samples=True,
                random_seed=None,
                numpy_random_seed=None,
                torch_random_seed=None,
            )
    except (ConnectionError, FileNotFoundError) as error:
        raise InputError(
            f"the data of the harness task {task!r} could not be loaded ({error})",
            remedy="Check the network, or name task files that read local data (suite.utility.task_folder)",
        ) from error
    scores = [100.0 * float(sample["acc"]) for found in results["samples"].values() for sample in found]
    return bootstrap_mean(scores)


def _opening_as_ours(harness_model: Any) -> Any:
    """The harness's model class, whose own texts open with BOS only where the tokenizer puts it there by itself.

    On small models that one token, the training windows' first, changes an answer here and there.
    """

    class OpeningAsOurs(harness_model):  # type: ignore[misc]  # of an optional package without annotations
        def tok_encode(self, string: str, **options: Any) -> list[int]:
            opening = opening_text(self.tokenizer)
            continued = options.get("add_special_tokens") is False or (opening and string.startswith(opening))
            ids = encode(self.tokenizer, [string])[0]
            ids = ids[len(opening_tokens(self.tokenizer)) :] if continued else ids
            return ids[-(options.get("left_truncate_len") or 0) :]

    return OpeningAsOurs


@cache
def _manager(task_folder: str | None) -> Any:
    """Made once in a process: it reads thousands of task files."""
    if task_folder is not None and not Path(task_folder).is_dir():
        raise InputError(f"no folder of harness tasks {task_folder!r}")
    if task_folder is not None and not is_code_allowed():  # by !function, and by templates
        raise code_refused("the harness's task files may run programs of their own", task_folder)
    import_harness()
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every group it does not use
    return TaskManager(include_path=task_folder)
