"""All metrics that the records at hand allow, for one model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

import quail_lightning.evaluation.knowmem as knowmem
import quail_lightning.evaluation.verbmem as verbmem
from quail_lightning.data.multiple_choice import read_choices
from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.errors import InputError
from quail_lightning.evaluation.answer_losses import NEW_TOKENS
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.harness import HarnessTasks, task_digest, task_problems
from quail_lightning.evaluation.metrics import METRICS, Asked, Metric, Subject, SuiteProgress
from quail_lightning.evaluation.privleak import privleak_measure
from quail_lightning.evaluation.rwku import Scale
from quail_lightning.evaluation.tofu import derived_measures
from quail_lightning.evaluation.utility import Utility
from quail_lightning.models.checkpoint import weights_digest
from quail_lightning.quantization import computing
from quail_lightning.run.results import Estimate, Measure
from quail_lightning.storage.vouched import digest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PromptEnd = Literal["published", "word"]
READ = "_read"


@dataclass(frozen=True)
class EvaluationSuite:
    """Runs every metric of ``METRICS`` that the records allow on one model, on the process that calls it.

    Inside ``shared_among`` all processes must call it, each with the same model on its own device; they share the
    batches, and every one is given all figures. Otherwise one process may call it while the others wait.

    Attributes:
        batch_size: prompts, texts or windows at once; None: as many as the free memory holds.
        verbmem_new_tokens: M1's response, and the truth with its BOS, tokens.
        knowmem_new_tokens: M2's and M4's answers, tokens.
        answer_new_tokens: greedy answers of TOFU and own questions, tokens; shorter where the model ends them.
        prompt_end: of M1, M2 and M4: ``published`` leaves their prompts as they are, with the space at the end;
            ``word`` leaves that space to the continuation, where a tokenizer that joins a space with the next word
            (Llama 3, Qwen, SmolLM2) has it: after a lone space such a model goes on with numbers.
        max_prompts: the first so many prompts of M1, M2 and M4 each, and questions of each set of answers; None:
            all. Less than all is a quick look, not the benchmark's figure.
        max_texts: the first so many texts of each side of M3 and of each labelled set; None: all.
        protocol: ``published`` draws M1's responses at temperature 0.9, as the failure paper's code does;
            ``paper`` is greedy.
        attacks: ``reported`` runs what M3 is made of (Min-40 % on forget and holdout); ``all`` every attack by
            likelihoods on every split: three times the texts' number of forward passes.
        gradient_norm: also attack by the norm of each text's gradient: a backward pass a text.
        reference_model: also attack by the NLL beside that of this checkpoint, which has the same tokenizer: a
            base model, or one that never saw the text. None does not.
        rwku_scale: of RWKU's recall: ``published``, its own package's, or ``rouge-score``, as M1 is scored.
        utility: Gen, Tru, Fac, Flu and a user's own files; None measures none of them.
        forget_tasks: tasks of the LM Evaluation Harness that ask for what is to be forgotten, such as WMDP's.
        general_questions: questions with four answers each, of which the model is to find the right one likeliest:
            ``shipped``, 128 that come with the package, or a ``.jsonl`` or ``.json`` file of ``question``,
            ``answer`` and three ``wrong``; None asks none.
    """

    batch_size: int | None = None
    verbmem_new_tokens: int = verbmem.NEW_TOKENS
    knowmem_new_tokens: int = knowmem.NEW_TOKENS
    answer_new_tokens: int = NEW_TOKENS
    prompt_end: PromptEnd = "published"
    max_prompts: int | None = None
    max_texts: int | None = None
    protocol: Literal["paper", "published"] = "paper"
    attacks: Literal["reported", "all"] = "reported"
    gradient_norm: bool = False
    reference_model: str | None = None
    rwku_scale: Scale = "published"
    utility: Utility | None = None
    forget_tasks: HarnessTasks | None = None
    general_questions: str | None = None

    def __post_init__(self) -> None:
        counted = ("batch_size", "verbmem_new_tokens", "knowmem_new_tokens", "answer_new_tokens")
        for name in (*counted, "max_prompts", "max_texts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1", given=value)

    def ended(self, prompts: Iterable[str]) -> list[str]:
        """Prompts that are to be continued, with the end that ``prompt_end`` names; line ends stay as they are."""
        return [prompt.rstrip(" ") if self.prompt_end == "word" else prompt for prompt in prompts]

    def deciding(self, metric: Metric) -> dict[str, Any]:
        """Those options that decide the figures of one metric, fit for JSON.

        Of a file it is what is read from it: of general questions and of a reference model in place of its name,
        of utility and forget tasks beside their options.

        Raises:
            InputError: a file or a task of the harness cannot be read.
        """
        found = {name: value for name, value in asdict(self).items() if name in metric.options}
        read = self.read_from_files()
        return found | {name: of for name, of in read.items() if name.removesuffix(READ) in found}

    def read_from_files(self) -> dict[str, str]:
        """Option that names a file → digest of what is read from it, by which two runs can be told apart.

        Those of options that say more than a file are called ``utility_read`` and ``forget_tasks_read``.

        Raises:
            InputError: the file or the task cannot be read.
        """
        found = {}
        if self.general_questions is not None:
            found["general_questions"] = digest(repr(read_choices(self.general_questions)))
        if self.reference_model is not None:
            found["reference_model"] = digest(weights_digest(self.reference_model))
        if self.utility is not None:
            found[f"utility{READ}"] = digest(self.utility.read())
        if self.forget_tasks is not None:
            found[f"forget_tasks{READ}"] = digest([task_digest(task) for task in self.forget_tasks.asked()])
        return found

    def check(
        self,
        records: EvaluationRecords,
        windows: Mapping[str, Tensor],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        metrics: Iterable[Metric] | None = None,
    ) -> None:
        """Refuse what the model cannot be evaluated with, before anything expensive starts.

        Args:
            records: as for ``evaluate``.
            windows: as for ``evaluate``.
            tokenizer: the model's.
            config: the model's; its positions are the limit.
            metrics: those to check; None: all.

        Raises:
            InputError: prompts or windows that do not fit the positions, empty prompts, texts too short for
                Min-40 %, token numbers beyond the vocabulary; all problems at once.
        """
        asked = Asked(records, windows, self, tokenizer, config)
        chosen = METRICS if metrics is None else metrics
        problems = [problem for metric in chosen if metric.is_asked(asked) for problem in metric.problems(asked)]
        if problems:
            raise InputError("the model cannot be evaluated with these records: " + " ".join(problems))

    def check_tasks(self) -> None:
        """Refuse tasks of the LM Evaluation Harness that cannot be run; needs neither records nor a model.

        Raises:
            InputError: the harness or a task's data is missing, or there is no such task or figure; all at once.
        """
        tasks = [] if self.forget_tasks is None else [*self.forget_tasks.asked()]
        tasks += [] if self.utility is None else self.utility.harness_tasks().values()
        if problems := task_problems(tasks):
            raise InputError("the evaluation cannot be run: " + " ".join(problems))

    def check_shards(self) -> None:
        """Refuse what a model that is sharded cannot be evaluated by.

        Raises:
            InputError: tasks of the LM Evaluation Harness, which runs the model itself.
        """
        if self.gradient_norm or self.reference_model is not None:
            raise InputError(
                "gradient norms and a reference model want the model whole on a device; the evaluation is sharded",
                given="evaluation.suite: gradient_norm or reference_model",
                remedy="Measure them on the saved model where it fits one device: `quail evaluate`",
            )
        used = [] if self.utility is None else [f"utility.{name}" for name in self.utility.of_harness]
        used += ["forget_tasks"] if self.forget_tasks is not None else []
        if used:
            raise InputError(
                "the LM Evaluation Harness runs a model that lies whole on a device; the evaluation is sharded",
                given=f"evaluation.suite: {', '.join(used)}",
                remedy="Measure them on the saved model where it fits one device: `quail test` with --model.start",
            )

    def evaluate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        records: EvaluationRecords,
        windows: Mapping[str, Tensor],
        auc_retrain: float | Estimate | None = None,
        progress: SuiteProgress | None = None,
        log: BenchmarkLog | None = None,
        metrics: Iterable[Metric] | None = None,
    ) -> dict[str, Measure]:
        """Every metric that the records allow; one that was not run is absent.

        Args:
            model: on its device, at the precision to evaluate; mode and random states are left as they were.
            tokenizer: its own.
            records: a part that is None leaves its metric out.
            windows: set name → [n, time] token numbers, BOS first; ``forget`` gives ``nll_forget``.
            auc_retrain: measured AUC of the retrained model, or the published one where it may serve; None
                leaves ``privleak`` out.
            progress: called with the measure's name, what is done and the total.
            log: takes in every response and every text's attack scores.
            metrics: those to run; None: all.

        Returns:
            measure name → measure, in the order of ``METRICS``. M1, M2, M4 and the NLLs
            hold per-record scores.

        Raises:
            InputError: see ``check``; nothing was run then.
        """
        metrics = METRICS if metrics is None else list(metrics)
        self.check(records, windows, tokenizer, model.config, metrics)
        log = BenchmarkLog() if log is None else log
        subject = Subject(records, windows, self, tokenizer, model.config, model, progress, log)
        measures: dict[str, Measure] = {}
        with computing(model):
            for metric in metrics:
                if metric.is_asked(subject):
                    measures |= metric.run(subject)
        if auc_retrain is not None and "membership_auc" in measures:
            measures["privleak"] = privleak_measure(measures["membership_auc"], auc_retrain)
        return measures | derived_measures(measures, None)
