"""All metrics that the records at hand allow, for one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from quail_lightning.data.questions import EvaluationRecords, MembershipTexts, QuestionSet, VerbatimPrompt
from quail_lightning.errors import InputError
from quail_lightning.evaluation import knowmem, verbmem
from quail_lightning.evaluation.attacks import REPORTED, attack_scores
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.encoding import encode, positions
from quail_lightning.evaluation.further_records import further_measures, further_problems
from quail_lightning.evaluation.generation import check_lengths, generate
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.likelihood import token_log_likelihoods, window_nlls, window_problem
from quail_lightning.evaluation.privleak import MembershipAUC, min_k, privleak_measure, shortest_text
from quail_lightning.evaluation.repetition import repetition
from quail_lightning.evaluation.rouge import RougeLF1
from quail_lightning.evaluation.sampling import Sampling
from quail_lightning.evaluation.utility import Utility
from quail_lightning.quantization import computing
from quail_lightning.results import Estimate, Measure

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DECIDING: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "verbatim": ("protocol", "verbmem_new_tokens", "max_prompts"),
        "forget_questions": ("knowmem_new_tokens", "max_prompts"),
        "retain_questions": ("knowmem_new_tokens", "max_prompts"),
        "membership": ("attacks", "max_texts"),
        "forget_labels": ("max_texts",),
        "retain_labels": ("max_texts",),
        "probes": ("max_prompts",),
    }
)
"""Kind of records → options of the suite that decide its figures. Batch sizes decide none: they change nothing in
float32, and only near ties at 16 bits."""

SuiteProgress = Callable[[str, int, int], None]  # (metric, done, total)


@dataclass(frozen=True)
class EvaluationSuite:
    """Runs M1 to M4 and the window NLLs on one model, on the process that calls it.

    Inside ``shared_among`` all processes must call it, each with the same model on its own device; they share the
    batches, and every one is given all figures. Otherwise one process may call it while the others wait.

    Attributes:
        batch_size: prompts, texts or windows at once; None: as many as the free memory holds.
        verbmem_new_tokens: M1's response, and the truth with its BOS, tokens.
        knowmem_new_tokens: M2's and M4's answers, tokens.
        max_prompts: the first so many prompts of M1, M2 and M4 each; None: all. Less than all is a quick look,
            not MUSE's figure.
        max_texts: the first so many texts of each side of M3 and of each labelled set; None: all.
        protocol: ``published`` draws M1's responses at temperature 0.9, as the failure paper's code does;
            ``paper`` is greedy.
        attacks: ``reported`` runs what M3 is made of (Min-40 % on forget and holdout); ``all`` every attack on
            every split, for the log: three times the texts' number of forward passes.
        utility: Gen, Tru, Fac, Flu and a user's own files; None measures none of them.
    """

    batch_size: int | None = None
    verbmem_new_tokens: int = verbmem.NEW_TOKENS
    knowmem_new_tokens: int = knowmem.NEW_TOKENS
    max_prompts: int | None = None
    max_texts: int | None = None
    protocol: Literal["paper", "published"] = "paper"
    attacks: Literal["reported", "all"] = "reported"
    utility: Utility | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "verbmem_new_tokens", "knowmem_new_tokens", "max_prompts", "max_texts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1", given=value)

    def deciding(self, part: str) -> dict[str, Any]:
        """Those options that decide the figures of one kind of records (a field of ``EvaluationRecords``)."""
        return {name: getattr(self, name) for name in DECIDING[part]}

    def check(
        self,
        records: EvaluationRecords,
        windows: Mapping[str, Tensor],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
    ) -> None:
        """Refuse what the model cannot be judged with, before anything expensive starts.

        Args:
            records: as for ``evaluate``.
            windows: as for ``evaluate``.
            tokenizer: the model's.
            config: the model's; its positions are the limit.

        Raises:
            InputError: prompts or windows that do not fit the positions, empty prompts, texts too short for
                Min-40 %, token numbers beyond the vocabulary; all problems at once.
        """
        limit = positions(config)
        problems: list[str] = []
        for name, prompts, new_tokens in self._prompts(records):
            if not prompts:
                problems.append(f"{name}: there are no prompts")
                continue
            try:
                check_lengths([len(row) for row in encode(tokenizer, prompts)], new_tokens, limit)
            except InputError as problem:
                problems.append(f"{name}: {problem}")
        if records.membership is not None:
            problems.extend(self._membership_problems(records.membership, tokenizer))
        problems.extend(further_problems(records, tokenizer, limit))
        if self.utility is not None:
            problems.extend(self.utility.problems(tokenizer, config))
        vocabulary = getattr(config.get_text_config(), "vocab_size", None)
        for name, tokens in windows.items():
            if problem_found := window_problem(tokens, limit):
                problems.append(f"nll_{name}: {problem_found}")
            elif vocabulary is not None and tokens.numel() and int(tokens.max()) >= vocabulary:
                problems.append(f"nll_{name}: token {int(tokens.max())} lies beyond the {vocabulary} of the model")
        if problems:
            raise InputError("the model cannot be evaluated with these records: " + " ".join(problems))

    def check_shards(self) -> None:
        """Refuse what a model that is sharded cannot be judged by.

        Raises:
            InputError: tasks of the LM Evaluation Harness, which runs the model itself.
        """
        if self.utility is not None and (self.utility.general or self.utility.truthful):
            raise InputError(
                "the LM Evaluation Harness runs a model that lies whole on a device; the evaluation is sharded",
                given="evaluation.suite.utility: general or truthful",
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
    ) -> dict[str, Measure]:
        """Every metric that the records allow; one that was not run is absent.

        Args:
            model: on its device, at the precision to judge; mode and random states are left as they were.
            tokenizer: its own.
            records: a part that is None leaves its metric out.
            windows: set name → [n, time] token numbers, BOS first; ``forget`` gives ``nll_forget``.
            auc_retrain: measured AUC of the retrained model, or the published one where it may serve; None
                leaves ``privleak`` out.
            progress: called with the metric's name, what is done and the total.
            log: takes in every response and every text's attack scores.

        Returns:
            metric name (a key of ``METRICS``) → measure. M1, M2, M4 and the NLLs hold per-record scores.

        Raises:
            InputError: see ``check``; nothing was run then.
        """
        self.check(records, windows, tokenizer, model.config)
        with computing(model):
            return self._measured(model, tokenizer, records, windows, auc_retrain, progress, log)

    def _measured(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        records: EvaluationRecords,
        windows: Mapping[str, Tensor],
        auc_retrain: float | Estimate | None,
        progress: SuiteProgress | None,
        log: BenchmarkLog | None,
    ) -> dict[str, Measure]:
        def step(name: str) -> Callable[[int, int], None] | None:
            return None if progress is None else partial(progress, name)

        measures: dict[str, Measure] = {}
        for name, prompts, new_tokens in self._prompts(records):
            verbatim = name == "verbmem_forget"
            responses = generate(
                model,
                tokenizer,
                prompts,
                new_tokens,
                self.batch_size,
                step(name),
                stops=() if verbatim else knowmem.STOPS,
                sampling=Sampling() if verbatim and self.protocol == "published" else None,
            )
            said = self._scored(name, prompts, responses, records, tokenizer)
            metric = RougeLF1(sync_on_compute=False)
            metric.update([row.response for row in said], [row.truth for row in said], range(len(said)))
            measures[name] = metric.estimate()
            if verbatim:
                measures["repetition_forget"] = bootstrap_mean([repetition(row.response) for row in said])
            if log is not None:
                log.responses[name] = said
        if records.membership is not None:
            scores = self._attack(model, tokenizer, records.membership, step)
            attack = MembershipAUC(sync_on_compute=False)
            for split in ("forget", "holdout"):
                attack.update(split, [row[REPORTED] for row in scores[split]], range(len(scores[split])))
            measures["membership_auc"] = attack.estimate()
            if auc_retrain is not None:
                measures["privleak"] = privleak_measure(measures["membership_auc"], auc_retrain)
            if log is not None:
                log.membership = scores
        for name, tokens in windows.items():
            key = f"nll_{name}"
            measures[key] = bootstrap_mean(window_nlls(model, tokens, self.batch_size, step(key)).numpy())
        measures |= further_measures(
            model, tokenizer, records, self.batch_size, self.max_prompts, self.max_texts, step, log
        )
        if self.utility is not None:
            measures |= self.utility.measures(model, tokenizer, self.batch_size, step)
        return measures

    def _prompts(self, records: EvaluationRecords) -> list[tuple[str, list[str], int]]:
        """(metric, prompts, new tokens) of each generated metric that the records allow."""
        plan: list[tuple[str, list[str], int]] = []
        if records.verbatim is not None:
            prompts = [record.prompt for record in self._verbatim(records.verbatim)]
            plan.append(("verbmem_forget", prompts, self.verbmem_new_tokens))
        for name, questions in _question_sets(records).items():
            plan.append((name, knowmem.question_prompts(questions)[: self.max_prompts], self.knowmem_new_tokens))
        return plan

    def _scored(
        self,
        name: str,
        prompts: Sequence[str],
        responses: Sequence[str],
        records: EvaluationRecords,
        tokenizer: PreTrainedTokenizerBase,
    ) -> tuple[Response, ...]:
        """Responses and truths as they are scored."""
        if name == "verbmem_forget":
            assert records.verbatim is not None
            asked = self._verbatim(records.verbatim)
            responses = [
                verbmem.truncate_response(response, record.stops)
                for response, record in zip(responses, asked, strict=True)
            ]
            truths = verbmem.truncate_truths(
                tokenizer, [record.truth for record in asked], self.verbmem_new_tokens
            )
        else:
            responses = [knowmem.truncate_answer(response) for response in responses]
            truths = [pair.answer for pair in _question_sets(records)[name].questions[: self.max_prompts]]
        return tuple(map(Response, truths, responses, prompts))

    def _attack(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        membership: MembershipTexts,
        step: Callable[[str], Callable[[int, int], None] | None],
    ) -> dict[str, tuple[dict[str, float], ...]]:
        """Split → attack scores of each text."""
        scores: dict[str, tuple[dict[str, float], ...]] = {}
        for split, texts in self._membership_texts(membership).items():
            everything = self.attacks == "all"
            judged = [*texts, *(text.lower() for text in texts)] if everything else list(texts)
            likelihoods = token_log_likelihoods(
                model, tokenizer, judged, self.batch_size, progress=step(f"membership_auc, {split}")
            )
            if everything:
                rows = [*zip(texts, likelihoods[: len(texts)], likelihoods[len(texts) :], strict=True)]
                scores[split] = tuple(attack_scores(*row) for row in rows)
            else:
                scores[split] = tuple({REPORTED: min_k(values)} for values in likelihoods)
        return scores

    def _verbatim(self, records: Sequence[VerbatimPrompt]) -> Sequence[VerbatimPrompt]:
        return records[: self.max_prompts]

    def _membership_texts(self, texts: MembershipTexts) -> dict[str, tuple[str, ...]]:
        splits = {"forget": texts.forget, "retain": texts.retain, "holdout": texts.holdout}
        if self.attacks == "reported":
            del splits["retain"]
        return {name: chosen[: self.max_texts] for name, chosen in splits.items()}

    def _membership_problems(self, texts: MembershipTexts, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        problems = []
        for split, chosen in self._membership_texts(texts).items():
            if not chosen and split != "retain":
                problems.append(f"membership_auc: there are no {split} texts.")
            # len − 1: the opening token, BOS or not, has no probability
            short = sum(len(row) - 1 < shortest_text() for row in encode(tokenizer, chosen))
            if short:
                problems.append(
                    f"membership_auc: {short} of {len(chosen)} {split} texts are too short for Min-40 %; "
                    f"leave texts of fewer than {shortest_text()} tokens out."
                )
        return problems


def _question_sets(records: EvaluationRecords) -> dict[str, QuestionSet]:
    named = {"knowmem_forget": records.forget_questions, "knowmem_retain": records.retain_questions}
    return {name: questions for name, questions in named.items() if questions is not None}
