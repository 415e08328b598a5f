"""The machine's main memory, asked before a model is allocated in it."""

from __future__ import annotations

import os
from pathlib import Path

from quail_lightning.errors import InputError
from quail_lightning.storage.disk_room import size_text

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

CGROUP_USES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def main_memory() -> int:
    """Bytes that this process may have at most: the machine's, or less where a container allows less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, CGROUP_LIMITS):
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)


def available_memory() -> int | None:
    """Bytes that can be had without swapping, no more than a container allows; None where nothing says it."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in zip(map(Path, CGROUP_LIMITS), map(Path, CGROUP_USES), strict=True):
        if limit.is_file() and used.is_file() and (most := limit.read_text().strip()).isdigit():
            found.append(max(0, int(most) - int(used.read_text())))
    return min(found, default=None)


def check_main_memory(need: float, what: str) -> None:
    """Refuse what cannot lie in main memory, whatever else is freed.

    Args:
        need: bytes.
        what: needs them.

    Raises:
        InputError: with both sizes.
    """
    if need > (there := main_memory()):
        raise InputError(
            f"{what} needs {size_text(round(need))}, and the memory of this machine is {size_text(there)}",
            remedy="Use a machine with more memory or a smaller model; where it should be small, see its sizes",
        )
