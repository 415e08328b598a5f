"""What the benchmarks share that run the program and print its figures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from quail_lightning.run.results import Estimate


def drive(log: Path, *commands: Sequence[str], threads: int | None = None) -> None:
    """Run commands of the program one after the other.

    Args:
        log: their output goes there; its folder is made, its stem is what stderr says of them.
        commands: each a verb and its options.
        threads: that torch may use; None: all cores.

    Raises:
        SystemExit: one failed; names the log.
    """
    print(f"started: {log.stem}", file=sys.stderr, flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    start = time.monotonic()
    with log.open("w") as output:
        for command in commands:
            full = [sys.executable, "-m", "quail_lightning", *command]
            finished = subprocess.run(
                full, stdout=output, stderr=subprocess.STDOUT, env=os.environ | limit, check=False
            )
            if finished.returncode:
                raise SystemExit(f"{log.stem} failed, see {log.resolve()}")
    print(f"finished: {log.stem}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def shown(measure: object, interval: bool = False) -> str:
    """A measure in a table: empty where it was not run, – where it is undefined.

    Args:
        measure: of ``results.json``, or None.
        interval: whether its 95 % interval stands behind it.
    """
    if measure is None:
        return ""
    if not isinstance(measure, Estimate):
        return "–"
    digits = 1 if abs(measure.value) >= 10 else 2
    spread = f" [{measure.low:.{digits}f}, {measure.high:.{digits}f}]" if interval else ""
    return f"{measure.value:.{digits}f}{spread}"
