"""``logs/<config>/latest``: a link to the run that began to train last."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

LATEST = "latest"
_NAMED = re.compile(rf"[^\s=,:\[\]{{}}'\"]*(?<![\w.\-]){LATEST}(?![\w.\-])")


def point_latest_to(run: Path) -> None:
    """Let the link beside a run lead to it, in one step; a folder of that name is the user's own and stays."""
    link = run.parent / LATEST
    if run == link or (link.exists() and not link.is_symlink()):
        return
    partial = link.with_name(f".{LATEST}.{os.getpid()}")
    try:
        partial.unlink(missing_ok=True)
        partial.symlink_to(run.name)
        partial.replace(link)
    except OSError as error:
        print(f"{link} cannot be made a link to {run} ({error.strerror})", file=sys.stderr, flush=True)


def settled(argument: str) -> str:
    """A command's argument with the run's own name in place of every link: what is noted of it stays true.

    Worked: ``--model.start=logs/news/latest/model`` → ``--model.start=logs/news/quail-20261125-172831/model``.
    """

    def run(match: re.Match[str]) -> str:
        link = Path(match[0])
        return str(link.parent / os.readlink(link)) if link.is_symlink() else match[0]

    return _NAMED.sub(run, argument)
