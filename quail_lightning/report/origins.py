"""Where a run's figures come from: digests, versions, hardware, command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from quail_lightning.report.finished_run import FinishedRun

NAMED = (
    "quail-lightning",
    "torch",
    "transformers",
    "lightning",
    "bitsandbytes",
    "llmcompressor",
    "torchao",
    "peft",
)
"""Packages that bear on the figures; all others are listed folded away."""


class Fact(NamedTuple):
    """A name and what is known under it; ``is_code`` where it is a digest, a path or a command."""

    name: str
    value: str
    is_code: bool = False


def origins_of(run: FinishedRun) -> list[Fact]:
    """Each fact that the run noted; what it did not note is left out."""
    start = run.starts[-1]
    packages, model = _mapping(start.get("packages")), _mapping(run.config.get("model"))
    found = [
        Fact("Run", str(run.folder), True),
        Fact("Method", run.method),
        *_times(run.starts),
        Fact("Command", shlex.join(map(str, start.get("command") or [])), True),
        Fact("Seed", _said(start.get("seed"))),
        Fact("Epochs of unlearning", _said(run.provenance.get("finished_epochs"))),
        Fact("Target", run.target, True),
        Fact("Started from", _said(model.get("start")), True),
        *_digests("Target's weights, SHA-256", run.provenance.get("target_sha256")),
        Fact("Retrained model", _said(run.settings.get("retrained")), True),
        *_digests("Unlearned weights, SHA-256", run.provenance.get("weights_sha256")),
        *_digests("Text, SHA-256", run.provenance.get("texts_sha256")),
        Fact("Records asked, SHA-256", _said(run.settings.get("records_sha256")), True),
        Fact("Versions", ", ".join(f"{name} {packages[name]}" for name in NAMED if name in packages)),
        Fact("Python", _said(start.get("python"))),
        Fact("Code", _revision(_mapping(start.get("git"))), True),
        *_hardware(_mapping(start.get("hardware"))),
        *(Fact(f"Arithmetic of {stage}", value) for stage, value in run.results.arithmetic.items()),
    ]
    return [fact for fact in found if fact.value]


def all_packages(run: FinishedRun) -> list[str]:
    """Every installed package with its version, as the last start noted them."""
    return [f"{name} {version}" for name, version in _mapping(run.starts[-1].get("packages")).items()]


def _times(starts: Sequence[Mapping[str, Any]]) -> list[Fact]:
    found = []
    for number, start in enumerate(starts, 1):
        name = "Started" if len(starts) == 1 else f"Start {number}"
        ended = f", {start['outcome']} {start.get('ended', '')}" if "outcome" in start else ""
        found.append(Fact(name, f"{_said(start.get('started'))}{ended}".strip()))
    return found


def _digests(name: str, files: object) -> list[Fact]:
    return [Fact(f"{name}: {file}", _said(digest), True) for file, digest in _mapping(files).items()]


def _revision(git: Mapping[str, Any]) -> str:
    changed = ", with changed files" if git.get("changed") else ""
    return f"{git['commit']}{changed}" if git.get("commit") else ""


def _hardware(machine: Mapping[str, Any]) -> list[Fact]:
    listed = machine.get("accelerators")
    accelerators = [_mapping(each) for each in listed] if isinstance(listed, list) else []
    devices = [f"{each.get('name')} ({each.get('memory_gib')} GiB)" for each in accelerators]
    memory = f"{machine['memory_gib']} GiB" if machine.get("memory_gib") else ""
    cores = f"{machine['cores']} cores" if machine.get("cores") else ""
    parts = [_said(machine.get("processor")), cores, memory]
    return [
        Fact("Machine", _said(machine.get("machine"))),
        Fact("Processor", ", ".join(filter(None, parts))),
        Fact("Accelerators", ", ".join(devices) or ("none" if machine else "")),
    ]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _said(value: object) -> str:
    return "" if value is None else str(value)
