"""Errors that are for the user: input that cannot be used, and a run that cannot go on."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """A value, file or combination that the user gave cannot be used.

    Raised before anything expensive starts. The command line prints it without a traceback and exits
    with status 2; from Python it is an ordinary ``ValueError``.

    Args:
        fact: what is wrong, in one sentence without the final full stop.
        given: the value that was given, or None where the fact holds it already.
        allowed: what would have been accepted.
        remedy: what to do about it.
    """

    def __init__(
        self, fact: str, *, given: object = None, allowed: str | None = None, remedy: str | None = None
    ) -> None:
        self.fact, self.given, self.allowed, self.remedy = fact, given, allowed, remedy
        parts = [fact if given is None else f"{fact}; got {given!r}"]
        if allowed is not None:
            parts.append(f"Allowed: {allowed}")
        if remedy is not None:
            parts.append(remedy)
        super().__init__(sentences(*parts))


class RunError(RuntimeError):
    """A run that started well cannot go on: the disk is full, memory is short, a loss is not finite.

    The command line prints it without a traceback and exits with status 1.

    Args:
        fact: what happened, in one sentence without the final full stop.
        remedy: what to do about it.
    """

    def __init__(self, fact: str, *, remedy: str | None = None) -> None:
        self.fact, self.remedy = fact, remedy
        super().__init__(sentences(fact, remedy))


def check_choice(name: str, given: object, allowed: Iterable[object]) -> None:
    """Refuse what is none of the values allowed; the command line's parser does so by itself.

    Raises:
        InputError: naming the argument and all values.
    """
    if given not in (choices := list(allowed)):
        raise InputError(f"{name} has no such value", given=given, allowed=", ".join(map(str, choices)))


def lacks(value: object, protocol: type) -> list[str]:
    """What an object lacks of a protocol's members, as they are declared there."""
    classes = [vars(each) for each in reversed(protocol.__mro__)]
    declared = [name for own in classes for name in (*own.get("__annotations__", ()), *own)]
    return [name for name in dict.fromkeys(declared) if not name.startswith("_") and not hasattr(value, name)]


def add_hint(error: BaseException, hint: str) -> None:
    """Let the command line say how to go on, where an interruption or a failed write ends a command."""
    error.quail_hint = hint  # type: ignore[attr-defined]


def hint_of(error: BaseException) -> str:
    """What ``add_hint`` added; empty for none."""
    return getattr(error, "quail_hint", "")


def sentences(*parts: str | None) -> str:
    """Parts as sentences, each with one full stop; those that are empty are left out."""
    return " ".join(part if part.endswith("?") else f"{part.rstrip('.')}." for part in parts if part)
