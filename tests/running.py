"""Whether a process that a test has started, or that its child has, still runs."""

from pathlib import Path


def is_running(pid: int) -> bool:
    """A process that has ended and was not waited for does not run; Linux only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended while this was read
        return False
