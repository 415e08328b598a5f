"""What a run was started with (command, package versions, git revision, hardware), and how it ended."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any, Literal

import torch

from quail_lightning.run.masking import masked, masked_command
from quail_lightning.storage.durable import replace_text
from quail_lightning.storage.readable import damaged, read_json

RECORD = "run.json"
PACKAGE = Path(__file__).parents[1]
Outcome = Literal["finished", "failed", "interrupted"]


def add_start(folder: Path, options: Mapping[str, Any]) -> None:
    """Note in ``run.json`` that a run was started, or gone on with; earlier starts stay. Secrets are masked.

    Args:
        folder: the run's, which exists.
        options: what else there is to say of this start, fit for JSON.
    """
    path = folder / RECORD
    starts = _earlier_starts(path)
    started = described_start() | masked(options)
    replace_text(path, json.dumps({"starts": [*starts, started]}, indent=2) + "\n", private=True)


def add_end(folder: Path, outcome: Outcome) -> None:
    """Note in ``run.json`` how the last start ended; one that was killed has no such mark.

    Args:
        folder: the run's; one that has no record, or a damaged one, gets no mark.
        outcome: ``finished`` where all was evaluated and saved.
    """
    path = folder / RECORD
    starts = _earlier_starts(path)
    if starts:
        starts[-1] |= {"ended": datetime.now(UTC).isoformat(timespec="seconds"), "outcome": outcome}
        replace_text(path, json.dumps({"starts": starts}, indent=2) + "\n", private=True)


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """Every start of a run, the last one last, with ``outcome`` where it ended by itself.

    Raises:
        InputError: there is no record, or it is damaged.
    """
    path = folder / RECORD
    content = read_json(path)
    starts = content.get("starts") if isinstance(content, dict) else None
    if not isinstance(starts, list) or not starts or not all(isinstance(start, dict) for start in starts):
        raise damaged(path, "it lists no start")
    return starts


def _earlier_starts(path: Path) -> list[Any]:
    try:
        return list(json.loads(path.read_text("utf-8"))["starts"])
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        print(f"{path} is damaged: the run's earlier starts are not known", file=sys.stderr, flush=True)
        return []


def described_start() -> dict[str, Any]:
    """Command, versions, git revision and hardware of this process."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": masked_command(sys.argv),
        "python": platform.python_version(),
        "packages": _packages(),
        "git": git_revision(PACKAGE.parent),
        "hardware": _hardware(),
    }


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that ``folder`` is the root of, and whether files were changed; None outside one."""
    try:
        root = _git(folder, "rev-parse", "--show-toplevel")
        if Path(root).resolve() != folder.resolve():
            return None  # installed somewhere below another project's checkout
        changed = bool(_git(folder, "status", "--porcelain"))
        return {"commit": _git(folder, "rev-parse", "HEAD"), "changed": changed}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()


def _packages() -> dict[str, str]:
    """Every installed package; ours may be run from a checkout that is not installed."""
    found = {found.name: found.version for found in distributions()}
    try:
        found["quail-lightning"] = version("quail-lightning")
    except PackageNotFoundError:
        found["quail-lightning"] = "not installed"
    return dict(sorted(found.items()))


def _hardware() -> dict[str, Any]:
    devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    return {
        "machine": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "accelerators": [{"name": d.name, "memory_gib": round(d.total_memory / 2**30, 1)} for d in devices],
        "cuda": torch.version.cuda,
        "torch_threads": torch.get_num_threads(),
    }


def processor_name() -> str:
    """The processor's model; empty where nothing says it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
