"""Tasks of the LM Evaluation Harness on a model that is already in memory."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_info

from quail_lightning.configuration.allowed_code import code_refused, is_code_allowed
from quail_lightning.errors import InputError
from quail_lightning.evaluation.harness_model import MOST_NEW_TOKENS, harness_model
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.inference.modes import evaluation_mode
from quail_lightning.run.results import Measure

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASK_FILES = ("", ".yaml", ".yml", ".py")
SHOTS_SEED = 1234  # the harness's own: draws the worked examples of tasks that do not take the first ones


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
            remedy="pip install 'quail-lightning[eval]', or leave its tasks out (general, truthful, tasks)",
        ) from error
    return lm_eval


@dataclass(frozen=True)
class HarnessTask:
    """What is asked of the harness.

    Attributes:
        name: a task's, or a group's, such as ``mmlu``, ``wmdp_bio`` or ``gsm8k``.
        shots: worked examples before each question; None: the task's own number. The harness by itself drops any
            number given for a task whose file says 0, as WMDP's do, without a word; here it acts.
        metric: which of the task's figures; None: the first that its file names. Of a task whose answers are read
            in several ways (``gsm8k``), the first way.
        folder: of further task files, which may read local data (``dataset_path: json``).
    """

    name: str
    shots: int | None = None
    metric: str | None = None
    folder: str | None = None


@dataclass(frozen=True)
class HarnessTasks:
    """Tasks of the harness by name, as a config gives them.

    Attributes:
        tasks: names of tasks or groups.
        shots: name → worked examples before each question; the others have their tasks' own number.
        task_metrics: name → which of the task's figures, such as ``acc_norm``; of the others the first.
        task_folder: of further task files, which may read local data.
        limit: the first so many questions of each task; None: all.
    """

    tasks: tuple[str, ...] = ()
    shots: dict[str, int] = field(default_factory=dict)
    task_metrics: dict[str, str] = field(default_factory=dict)
    task_folder: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if twice := [name for name, count in Counter(self.tasks).items() if count > 1]:
            raise InputError("a harness task is named twice", given=", ".join(twice))
        for option, given in (("shots", self.shots), ("task_metrics", self.task_metrics)):
            if unknown := sorted(set(given) - set(self.tasks)):
                raise InputError(
                    f"{option} names what is not among the tasks",
                    given=", ".join(unknown),
                    allowed=", ".join(self.tasks) or "nothing: tasks names none",
                )
        if fewer := [name for name, count in self.shots.items() if count < 0]:
            raise InputError("shots must not be negative", given=", ".join(fewer))
        if self.limit is not None and self.limit < 1:
            raise InputError("limit must be at least 1", given=self.limit)

    def asked(self) -> Iterator[HarnessTask]:
        """Each of them."""
        for name in self.tasks:
            yield HarnessTask(name, self.shots.get(name), self.task_metrics.get(name), self.task_folder)


def check_task(task: HarnessTask, positions: int | None = None) -> None:
    """See that the harness is there, knows a task, and that its data can be loaded.

    Args:
        task: what is asked.
        positions: of the model, where it is known: an answer must leave room for its question.

    Raises:
        InputError: the harness, the folder or the data is missing, there is no such task or figure, the figure is
            no mean over questions, or the task runs what the model writes.
    """
    for leaf in _loaded(task):
        longest = 0
        if leaf.get_config("output_type") == "generate_until":
            longest = (leaf.get_config("generation_kwargs") or {}).get("max_gen_toks", MOST_NEW_TOKENS)
        if positions is not None and longest >= positions:
            raise InputError(
                f"answers of the harness task {task.name!r} leave no room for its questions",
                given=f"{longest} tokens, of a model with {positions} positions",
                remedy="Leave the task out, or set max_gen_toks lower in a task file of your own (task_folder)",
            )


def task_problems(tasks: Iterable[HarnessTask], positions: int | None = None) -> list[str]:
    """What ``check_task`` says of those that it refuses, each sentence once."""
    found = []
    for task in tasks:
        try:
            check_task(task, positions)
        except InputError as problem:
            found.append(str(problem))
    return list(dict.fromkeys(found))


def harness_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: HarnessTask,
    batch_size: int | None,
    limit: int | None = None,
) -> Measure:
    """A task's figure over its questions, or over all questions of a group, × 100, with its own interval.

    The model is handed over, not loaded again; mode and random states are left as they were. Questions open as
    every other metric's prompts do (``opening_tokens``).

    Args:
        model: a causal language model on its device.
        tokenizer: its own.
        task: what is asked.
        batch_size: requests in one forward pass; None: 8, since the harness knows of no free memory.
        limit: the first so many questions of each task; None: all.

    Raises:
        InputError: see ``check_task``.
    """
    from lightning.pytorch.utilities.seed import isolate_rng

    harness, loaded = import_harness(), _loaded(task)
    with isolate_rng(), evaluation_mode(model):
        evaluated = harness_model(model, tokenizer, batch_size)
        # not simple_evaluate: it runs git and pip for a report, and gives other processes than the first nothing
        results = harness.evaluate(
            lm=evaluated,
            task_dict={"tasks": {leaf.task_name: leaf for leaf in loaded}, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
        )
    if evaluated.cut:
        rank_zero_info(
            f"{task.name}: {evaluated.cut} prompts are longer than the model's {evaluated.max_length} positions "
            "and lost their beginning"
        )
    scores = [score for leaf in loaded for score in _scores(results["samples"][leaf.task_name], task, leaf)]
    return bootstrap_mean(scores)


@cache
def task_digest(task: HarnessTask) -> str:
    """SHA-256 of what is asked: the harness's version, further task files, questions and worked examples.

    Raises:
        InputError: see ``check_task``.
    """
    found = hashlib.sha256(str(import_harness().__version__).encode())
    described = [] if task.folder is None else sorted(Path(task.folder).rglob("*"))
    for path in described:
        if path.is_file() and path.suffix in TASK_FILES:
            found.update(path.read_bytes())
    for leaf in _loaded(task):
        for document in (*leaf.eval_docs, *(leaf.fewshot_docs() if leaf.get_config("num_fewshot") else ())):
            found.update(repr(document).encode())
    return found.hexdigest()


def _scores(samples: Sequence[dict[str, Any]], task: HarnessTask, leaf: Any) -> list[float]:
    """Of one task's questions; a sample stands there once for each way of reading the answer."""
    metric = _metric(task, leaf)
    return [100.0 * float(sample[metric]) for sample in samples if sample["filter"] == samples[0]["filter"]]


def _metric(task: HarnessTask, leaf: Any) -> str:
    return task.metric or str(next(iter(leaf.aggregation())))


@cache
def _loaded(task: HarnessTask) -> list[Any]:
    """Its tasks with their data and number of shots; loaded once in a process, whatever is asked them."""
    manager = _manager(task.folder)
    if task.name not in manager.all_tasks:
        near = get_close_matches(task.name, manager.all_tasks, n=3)
        meant = f"Did you mean {', '.join(near)}? Or name" if near else "Name"
        raise InputError(
            f"the LM Evaluation Harness has no task {task.name!r}",
            given=task.folder,
            remedy=f"{meant} the folder of its task files (task_folder)",
        )
    try:
        loaded = manager.load([task.name])
    except (OSError, ValueError) as error:  # no network, no such dataset or configuration, no access
        raise InputError(
            f"the data of the harness task {task.name!r} could not be loaded ({error})",
            remedy="Check the network, or name task files that read local data (task_folder)",
        ) from error
    leaves = list(loaded["tasks"].values())
    for leaf in leaves:
        _check_leaf(task, leaf)
        shots = leaf.get_config("num_fewshot") if task.shots is None else task.shots
        leaf.set_config(key="num_fewshot", value=shots or 0)
        leaf.set_fewshot_seed(seed=SHOTS_SEED)
    return leaves


def _check_leaf(task: HarnessTask, leaf: Any) -> None:
    if getattr(leaf, "UNSAFE_CODE", False):
        raise InputError(
            f"the harness task {task.name!r} runs programs that the model writes", remedy="Leave it out"
        )
    means = [name for name, how in leaf.aggregation().items() if getattr(how, "__name__", "") == "mean"]
    wanted = _metric(task, leaf)
    if wanted not in means:
        raise InputError(
            f"the harness task {task.name!r} has no figure {wanted!r} that is a mean over its questions",
            allowed=", ".join(means) or "none of its figures",
            remedy="Name one of them in task_metrics, or another task",
        )


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
