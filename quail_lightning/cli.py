"""The command line: fit, validate and test go to LightningCLI, the other verbs to ``commands``."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from quail_lightning.command_line.endings import ending, report_thread
from quail_lightning.configuration.allowed_code import FLAG, code_allowed
from quail_lightning.configuration.bounded_yaml import check_config
from quail_lightning.configuration.files import find_config
from quail_lightning.errors import InputError
from quail_lightning.run.latest import settled
from quail_lightning.run.libraries import loading_libraries
from quail_lightning.run.parent import end_with_parent
from quail_lightning.storage.locks import released_afterwards
from quail_lightning.terminal import begin_command, quiet_libraries

TRAINER_VERBS = {
    "fit": "unlearn, evaluate after every epoch at every precision, save the model",
    "validate": "negative log-likelihood of the forget and retain windows",
    "test": "evaluate a model (model.start) at every precision, without training",
}
VERBS = {
    "finetune": "make a target (forget + retain) or a retrained reference (retain only)",
    "alternates": "let a model write an alternate answer to each question, for method/altpo.yaml",
    "analyze": "weight change, bucket overlap and delivered shift of an unlearned model against its target",
    "convert": "make a checkpoint in Hugging Face format of a GGUF file",
    "harden": "move a few weights of an unlearned model, so that formats bring nothing back",
    "quantize": "write a model as it will be deployed (awq4, gptq4, nf4, ...), with a model card",
    "evaluate": "evaluate saved models on a benchmark, or score a published log again",
    "folds": "unlearn several forget sets in turn (MUSE's sustainability and scalability)",
    "push": "put an exported model and its card on the hub, private by default (--dry-run lists what)",
    "compare": "finished runs side by side: terminal, CSV, LaTeX, a figure of forgetting and utility",
    "report": "finished runs as one HTML file: verdict first, then figures, curves, origins, limits",
    "clean": "list, and with --yes remove, what private text can be read back from",
}
"""Verb → what it does; the verb's code stands in ``quail_lightning.commands.<verb>``."""
SWEEP = {"sweep": "search the options of fit: which run forgets most and keeps most, on validation windows"}
DOCTOR = {"doctor": "say what works on this machine, and whether the run of a config can"}
"""The verb that examines; it shows something before the libraries are loaded."""
ALL_VERBS = TRAINER_VERBS | SWEEP | VERBS | DOCTOR
ANEW = "The same command starts anew"
GO_ON = {
    "fit": "--ckpt_path last goes on from the last checkpoint, where checkpoint.enabled: true wrote one",
    "evaluate": "The same command goes on: the metrics that are finished lie in the folder --finished",
    "folds": "The same command goes on: the folds that are finished are kept",
    "sweep": "The same command goes on: what is finished is kept, and what was cut short is run again",
    "clean": "The same command removes what is left",
}
"""Verb → what to do where it was interrupted, or could not write; those that are absent start anew."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Bad input ends with its message and exit status 2, a run that cannot go on with 1, Ctrl-C with 130; each says
    what to do. Anything else is a fault of the program and ends with its traceback.
    """
    end_with_parent()
    threading.excepthook = report_thread
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return
    if given == ["--version"]:
        print(_version())
        return
    try:
        with code_allowed(FLAG in given):
            options = [argument for argument in given if argument != FLAG]
            _check_verb(options)
            _run([settled(argument) for argument in _resolve_configs(options)])
    except BrokenPipeError:  # `quail clean | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it empties its buffers
    except BaseException as error:
        found = ending(error, GO_ON.get(given[0], ANEW))
        if found is None:
            raise
        message, status = found
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(status) from None


def program() -> None:
    """Run one command as a program of its own: ``quail`` and ``python -m quail_lightning``."""
    status = 0
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        status = end.code
    if "torch" in sys.modules:
        from quail_lightning.run.processes import end_together

        end_together(status)
    sys.exit(status)


def _run(given: list[str]) -> None:
    begin_command()
    if given[0] in DOCTOR:
        from quail_lightning.command_line.doctor import run_doctor

        run_doctor(given[1:])
        return
    with loading_libraries():
        if not {"-h", "--help"} & set(given):
            quiet_libraries()
        verb = given[0]
        module = import_module(f"quail_lightning.{_module(verb)}")
    if verb in VERBS:
        _run_verb(verb, module, given[1:])
    elif verb in SWEEP:
        module.run_sweep(given[1:])
    else:
        module.run_lightning_cli(given)


def _module(verb: str) -> str:
    if verb in VERBS:
        return f"commands.{verb}"
    return "command_line.sweeping" if verb in SWEEP else "command_line.lightning_cli"


def _check_verb(given: Sequence[str]) -> None:
    if given and given[0] in ALL_VERBS:
        return
    close = get_close_matches(given[0].lower(), ALL_VERBS, n=1) if given else []
    remedy = f"Did you mean {close[0]}?" if close else "quail --help says what each does"
    if set(given) & set(ALL_VERBS):
        remedy = "The verb comes first"
    allowed = ", ".join(ALL_VERBS)
    raise InputError("there is no such verb", given=given[0] if given else "", allowed=allowed, remedy=remedy)


def _overview() -> str:
    lines = [f"  {verb:<12}{purpose}" for verb, purpose in ALL_VERBS.items()]
    return "\n".join(
        [
            "usage: quail VERB --config FILE [--key value ...]",
            "",
            "Machine unlearning that survives quantization.",
            "",
            *lines,
            "",
            "quail VERB --help lists every option; --print_config prints the whole config after all overrides;",
            "quail --version prints the version.",
            "A config names classes of installed packages and runs no other code, unless --allow-code is given.",
        ]
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"quail-lightning {version('quail-lightning')}"
    except PackageNotFoundError:
        return "quail-lightning, a checkout that is not installed"


def _run_verb(verb: str, command: Any, arguments: list[str]) -> None:
    from quail_lightning.command_line.argument_parser import SuggestingParser

    parser = SuggestingParser(prog=f"quail {verb}", description=VERBS[verb])
    parser.verb = verb
    parser.add_argument("-c", "--config", action="config", help="config file; several merge key by key")
    command.add_arguments(parser)
    parsed = parser.parse_args(arguments)
    with released_afterwards():
        command.run(parser.instantiate_classes(parsed))


def _resolve_configs(arguments: list[str]) -> list[str]:
    """Replace every config file's name by its path."""
    resolved: list[str] = []
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-c") and equals:
            resolved.append(f"{name}={_readable(value)}")
        elif position and arguments[position - 1] in ("--config", "-c"):
            resolved.append(str(_readable(argument)))
        else:
            resolved.append(argument)
    return resolved


def _readable(name: str) -> Path:
    path = find_config(name)
    check_config(path)
    return path
