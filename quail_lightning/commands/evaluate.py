"""`quail evaluate`: how saved models do on a benchmark, or a published log scored again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from quail_lightning.commands.device import named_device
from quail_lightning.commands.leftovers import say_what_is_left
from quail_lightning.commands.scored_log import figures_of, report_log
from quail_lightning.conversion.located import located
from quail_lightning.data.calibration import CalibrationRequest
from quail_lightning.data.opening import describe_opening
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError, check_choice
from quail_lightning.evaluation.answer_losses import NEW_TOKENS
from quail_lightning.evaluation.benchmark_log import holds_log, read_log
from quail_lightning.evaluation.benchmarks import Benchmark, BenchmarkData, load_benchmark
from quail_lightning.evaluation.checkpoints import CheckpointEvaluation, load_precisions
from quail_lightning.evaluation.conclusions import add_derived
from quail_lightning.evaluation.evaluator import Evaluated
from quail_lightning.evaluation.harness import HarnessTasks
from quail_lightning.evaluation.lineage import plan_of
from quail_lightning.evaluation.rescoring import LogScores, score_log
from quail_lightning.evaluation.serving import EngineName, VllmOptions, serving
from quail_lightning.evaluation.side_by_side import restate_membership, verdicts_of
from quail_lightning.evaluation.suite import EvaluationSuite, PromptEnd
from quail_lightning.evaluation.table import print_results
from quail_lightning.evaluation.utility import Utility
from quail_lightning.evaluation.verdict import Verdict
from quail_lightning.models.checkpoint import check_whole
from quail_lightning.quantization import available_precisions, partly_quantized
from quail_lightning.run.masking import masked
from quail_lightning.run.results import ResultRow, write_results
from quail_lightning.storage.durable import check_writable, write_json
from quail_lightning.storage.locks import hold
from quail_lightning.storage.privacy import private_folder
from quail_lightning.terminal import Bar

Protocol = Literal["paper", "published"]
Attacks = Literal["all", "reported"]
_OF_MODELS = ["precisions", "corpus", "data", "protocol", "limit", "attacks", "batch_size", "calibration"]
_OF_MODELS += ["engine", "vllm", "general_questions", "utility", "forget_tasks", "prompt_end"]
_OF_MODELS += ["gradient_norm", "reference_model", "answer_new_tokens"]
"""What says how a model is evaluated."""
Names = str | Path | Sequence[str | Path]
"""One, or several."""


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("models", nargs="*", type=str, help="checkpoints: folders or hub names; a target first")
    parser.add_argument("--benchmark", type=str, required=True, help="stem of configs/benchmark/*.yaml")
    parser.add_argument("--corpus", type=str | None, default=None, help="folder in the benchmark's layout")
    parser.add_argument("--data", type=dict[str, Any], default={}, help="other options of the benchmark's data")
    parser.add_argument("--precisions", nargs="+", type=str, default=["bf16"], help="and attacks, and chains")
    parser.add_argument("--protocol", type=Protocol, default="paper", help="`published`: as the papers' code")
    parser.add_argument(
        "--retrained",
        type=str | None,
        default=None,
        help="never trained on the forget set; membership leak and the verdict need it",
    )
    parser.add_argument("--limit", type=int | None, default=None, help="only the first N records of each split")
    parser.add_argument("--attacks", type=Attacks, default="all", help="membership attacks run")
    parser.add_argument("--gradient_norm", type=bool, default=False, help="attack by gradients, too: slower")
    parser.add_argument("--reference_model", type=str | None, default=None, help="attack against this one, too")
    parser.add_argument(
        "--general_questions", type=str | None, default=None, help="`shipped`, or a file: question, answer, wrong"
    )
    parser.add_argument("--utility", type=Utility | None, default=None, help="what models are still good for")
    parser.add_argument(
        "--forget_tasks", type=HarnessTasks | None, default=None, help="harness tasks about what is forgotten"
    )
    parser.add_argument("--prompt_end", type=PromptEnd, default="published", help="`word`: without a space")
    parser.add_argument("--answer_new_tokens", type=int, default=NEW_TOKENS, help="of TOFU's and own questions")
    parser.add_argument("--batch_size", type=int | None, default=None, help="default: by free memory")
    parser.add_argument(
        "--calibration", type=CalibrationRequest, default=CalibrationRequest(), help="for AWQ, GPTQ, SmoothQuant"
    )
    parser.add_argument("--engine", type=EngineName, default="own", help="what answers prompts for saved folders")
    parser.add_argument("--vllm", type=VllmOptions, default=VllmOptions(), help="for --engine vllm")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--finished", type=str, default="logs/evaluations", help="where finished metrics are kept")
    parser.add_argument("--from-log", type=str | None, default=None, help="score this log, run no model")
    parser.add_argument("--retrained-log", type=str | None, default=None, help="beside it, the retrained model's")
    parser.add_argument("--out", type=str | None, default=None, help="folder for results.json and results.csv")
    parser.add_argument("--json", type=str | None, default=None, help="file for every figure")


def run(arguments: Any) -> None:
    """Carry the verb out."""
    if arguments.out is not None:
        check_writable(Path(arguments.out), "--out")
    if arguments.json is not None:
        if Path(arguments.json).is_dir():
            raise InputError("--json names a folder", given=arguments.json, allowed="a file")
        check_writable(Path(arguments.json).parent, "the folder of --json")
    benchmark = load_benchmark(arguments.benchmark)
    if arguments.from_log is not None:
        _refuse_beside_log(arguments)
        report_log(arguments, benchmark)
    elif arguments.retrained_log is not None:
        raise InputError(
            "--retrained-log is read beside --from-log", given=arguments.retrained_log, remedy="Name --retrained"
        )
    else:
        _evaluate_models(arguments, benchmark)


def _refuse_beside_log(arguments: Any) -> None:
    """What says how a model is run acts on no log."""
    usual = {name: each.default for name, each in signature(evaluate).parameters.items()}
    usual |= {"precisions": list(usual["precisions"]), "data": {}}  # as they are parsed
    given = [f"--{name}" for name in _OF_MODELS if getattr(arguments, name) != usual[name]]
    if given or arguments.models:
        raise InputError(
            "--from-log runs no model", given=[*arguments.models, *given], remedy="Leave one of the two out"
        )


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found.

    Attributes:
        title: of its table.
        rows: one for each model and precision.
        verdicts: (model, precision) → what is said of every model whose target was evaluated too.
        details: each row with its verdict, where its log lies, all ROUGE means and AUCs; fit for JSON.
        note: what a reader of the figures must know.
        settings: what they were made by; fit for JSON.
    """

    title: str
    rows: list[ResultRow]
    verdicts: dict[tuple[str, str], Verdict]
    details: list[dict[str, Any]]
    note: str
    settings: dict[str, Any]

    @property
    def named_verdicts(self) -> dict[str, Verdict]:
        """Precision → verdict; model and precision where there are several models."""
        several = len({model for model, _ in self.verdicts}) > 1
        return {f"{model} {at}" if several else at: found for (model, at), found in self.verdicts.items()}


def evaluate(
    models: Names,
    benchmark: str | Benchmark,
    retrained: str | Path | None = None,
    precisions: Names = ("bf16",),
    corpus: str | Path | None = None,
    data: Mapping[str, Any] | None = None,
    protocol: Protocol = "paper",
    limit: int | None = None,
    attacks: Attacks = "all",
    batch_size: int | None = None,
    calibration: CalibrationRequest = CalibrationRequest(),  # noqa: B008 (frozen)
    device: str = "auto",
    finished: str | Path = "logs/evaluations",
    engine: EngineName = "own",
    vllm: VllmOptions = VllmOptions(),  # noqa: B008 (frozen)
    general_questions: str | None = None,
    utility: Utility | None = None,
    forget_tasks: HarnessTasks | None = None,
    prompt_end: PromptEnd = "published",
    gradient_norm: bool = False,
    reference_model: str | None = None,
    answer_new_tokens: int = NEW_TOKENS,
) -> Evaluation:
    """Evaluate saved models at their deployment precisions; what is finished already is not run again.

    Args:
        models: folders or hub names; a target first, where others were unlearned from it.
        benchmark: stem of ``configs/benchmark/*.yaml`` (``muse-news``, ``own``, ...).
        retrained: checkpoint trained without the forget set, for M3 and the verdicts.
        precisions: stems of ``configs/quantizer/*.yaml`` and ``configs/attack/*.yaml``, and chains of them
            (``prune30+nf4``).
        corpus: folder in the benchmark's layout.
        data: other options of the benchmark's DataModule, such as ``{"forget": "my.txt"}`` of ``own``.
        protocol: ``published`` follows the papers' code where it departs from the paper.
        limit: only the first so many records of each split: a quick look.
        attacks: membership attacks that are run.
        batch_size: prompts, texts or windows at once; None: by free memory.
        calibration: what AWQ, GPTQ and SmoothQuant are calibrated on.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        finished: folder in which finished metrics and their logs are kept.
        engine: ``vllm`` has a vLLM server answer prompts for models that are evaluated as their folder holds them;
            likelihoods and attacks, and all other precisions, are always the own engine's.
        vllm: how the server is reached.
        general_questions: ``shipped``, or a file of questions with four answers; see ``EvaluationSuite``.
        utility: Gen, Tru, Fac, Flu, tasks of the LM Evaluation Harness, and own files.
        forget_tasks: tasks of the harness that ask for what is to be forgotten, such as WMDP's.
        prompt_end: ``word`` leaves the space at a prompt's end to the continuation; see there too.
        gradient_norm: also attack by gradients; see there too.
        reference_model: also attack by the likelihood beside this model's; see there too.
        answer_new_tokens: of greedy answers to TOFU's and own questions; fewer where positions are few.

    Raises:
        InputError: whatever is found to be wrong, before a model is loaded.
    """
    models, precisions = _several(models), _several(precisions)
    retrained = None if retrained is None else str(retrained)
    if not models:
        raise InputError("no model is named", allowed="one or more checkpoints")
    if not precisions:
        raise InputError("no precision is named", allowed=", ".join(available_precisions()))
    if limit is not None and limit < 1:
        raise InputError("limit must be at least 1", given=limit)
    check_choice("protocol", protocol, get_args(Protocol))
    check_choice("attacks", attacks, get_args(Attacks))
    check_choice("prompt_end", prompt_end, get_args(PromptEnd))
    if protocol == "published" and prompt_end != "published":
        raise InputError(
            "protocol published asks the published prompts",
            given=f"prompt_end: {prompt_end}",
            remedy="Leave one of the two out",
        )
    check_choice("engine", engine, get_args(EngineName))
    asked = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    suite = EvaluationSuite(
        batch_size=batch_size,
        max_prompts=limit,
        max_texts=limit,
        protocol=protocol,
        attacks=attacks,
        general_questions=general_questions,
        utility=utility,
        forget_tasks=forget_tasks,
        prompt_end=prompt_end,
        gradient_norm=gradient_norm,
        reference_model=reference_model,
        answer_new_tokens=answer_new_tokens,
    )
    suite.check_tasks()
    at_precisions, root = load_precisions(precisions, protocol), Path(finished)
    check_writable(root, "finished")
    where = named_device(device)
    served = serving(engine, vllm, protocol, root, where)
    evaluation = CheckpointEvaluation(suite, asked.name, root, where, calibration, served)
    folders = located([*models, *filter(None, [retrained])])
    models, retrained = folders[: len(models)], None if retrained is None else folders[-1]
    plan = plan_of(models, retrained, at_precisions)
    if served is not None:
        served.check_any(plan.precisions)
    for model in plan.precisions:
        check_whole(model, torch.bfloat16)
    given = dict(data or {}) | ({} if corpus is None else {"corpus": str(corpus)})
    read = {model: asked.read(model, given, limit) for model in plan.precisions}
    told = [
        note
        for model, at in plan.precisions.items()
        for note in (
            partly_quantized(evaluation.check(model, read[model], at)),
            evaluation.remarks(model, at),
            describe_opening(load_tokenizer(model)),
        )
    ]
    hold(private_folder(root, root), f"the folder of finished evaluations {root}", shared=True)
    found: dict[str, dict[str, Evaluated]] = {}
    with Bar() as bar:
        for model, at in plan.precisions.items():

            def show(what: str, done: int, total: int, model: str = model) -> None:
                bar.show(f"{model} · {what}", done, total)

            found[model] = evaluation.evaluate(model, read[model], at, show)
    figures = {
        model: {precision: dict(each.measures) for precision, each in by_precision.items()}
        for model, by_precision in found.items()
    }
    against = restate_membership(figures, plan, retrained, protocol, asked)
    for model, measured in figures.items():
        add_derived(measured, figures.get(retrained or "", {}) if model != retrained else {})
    verdicts = verdicts_of(figures, plan, retrained)
    engines = {
        (model, each.name): evaluation.engine(model, each) for model, at in plan.precisions.items() for each in at
    }
    told += [] if served is None else [_told_of_engines(engines, served.told)]
    partial = "" if limit is None else f" (partial: first {limit})"
    rows, details = [], []
    for model, by_precision in found.items():
        name = f"{model}{' (retrained)' if model == retrained else ''}{partial}"
        for precision, each in by_precision.items():
            measures = figures[model][precision]
            rows.append(ResultRow(name, precision, measures))
            assert each.folder is not None
            about: dict[str, Any] = {"model": name, "precision": precision, "log": str(each.folder)}
            about |= {"engine": engines[model, precision], "reused": list(each.reused)} | against[model]
            if (said := verdicts.get((model, precision))) is not None:
                about |= {"target": plan.targets[model], "verdict": said.as_json()}
            details.append(about | figures_of(measures, _log_scores(each.folder)))
    if prompt_end == "word":
        told.append("The prompts of M1, M2 and M4 end in a word, without the benchmark's last space (prompt_end).")
    if general_questions is not None and limit is not None:
        told.append("The general questions are asked whole.")
    note = _note(limit, protocol, read, any("privleak" in row.metrics for row in rows), [*told, *plan.notes])
    settings = {
        "benchmark": asked.name,
        "corpus": given.get("corpus", asked.init_args.get("corpus")),
        "protocol": protocol,
        "partial": limit is not None,
        "limit": limit,
        "prompt_end": prompt_end,
        "note": note,
        "arithmetic": evaluation.arithmetic(plan.sixteen_bits),
    }
    title = f"{asked.name}, protocol {protocol}{partial}"
    return Evaluation(title, rows, verdicts, details, note, settings)


def _evaluate_models(arguments: Any, benchmark: Benchmark) -> None:
    chosen = {name: getattr(arguments, name) for name in ("retrained", "device", "finished", *_OF_MODELS)}
    found = evaluate(arguments.models, benchmark, **chosen)
    verdicts = found.named_verdicts
    print_results(found.rows, found.title, found.note, verdicts)
    if arguments.json is not None:
        write_json(Path(arguments.json), masked(found.settings) | {"rows": found.details})
    if arguments.out is not None:
        arithmetic = {"evaluation": found.settings["arithmetic"]}
        write_results(Path(arguments.out), found.rows, found.note, arithmetic, verdicts or None)
    say_what_is_left([Path(arguments.finished)])


def _several(names: Names) -> list[str]:
    """A single name is one, not its letters."""
    return [str(name) for name in ([names] if isinstance(names, str | Path) else names)]


def _told_of_engines(engines: Mapping[tuple[str, str], str], server: str) -> str:
    """Which rows' responses are a server's."""
    served = [f"{model} at {precision}" for (model, precision), engine in engines.items() if engine != "own"]
    return f"Responses by {server}: {', '.join(served)}. All other figures are the own engine's."


def _note(
    limit: int | None,
    protocol: Protocol,
    data: Mapping[str, BenchmarkData],
    has_privleak: bool,
    told: Sequence[str],
) -> str:
    notes = list(dict.fromkeys(filter(None, [*(each.records.note for each in data.values()), *told])))
    if limit is not None:
        notes.append(f"PARTIAL: only the first {limit} records of each split, no benchmark figures.")
    if protocol == "published":
        notes.append(
            "Protocol published: verbatim recall is drawn at temperature 0.9, 4bit is FP4, and membership leak is "
            "against the published constant."
        )
    if not has_privleak and any(each.records.membership is not None for each in data.values()):
        notes.append("Membership leak is left out: no retrained model is named (retrained).")
    return "\n".join(notes)


def _log_scores(folder: Path) -> LogScores | None:
    """What the log beside the finished metrics yields; None where the benchmark is none of MUSE's kind."""
    return score_log(read_log(folder), None) if holds_log(folder) else None
