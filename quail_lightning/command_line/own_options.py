"""A verb that takes the options of `quail fit` beside its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def divided(
    arguments: Sequence[str], valued: Collection[str], flags: Collection[str]
) -> tuple[list[str], list[str]]:
    """The verb's own arguments, and those of `quail fit`, each in their order.

    Args:
        arguments: of the command line, without the verb.
        valued: own options with a value, given as ``--name VALUE`` or ``--name=VALUE``.
        flags: own options without one.
    """
    own, fit = list[str](), list[str]()
    rest = iter(arguments)
    for argument in rest:
        if argument in valued:
            own += [argument, *([following] if (following := next(rest, None)) is not None else [])]
        elif argument in flags or argument.partition("=")[0] in valued:
            own.append(argument)
        else:
            fit.append(argument)
    return own, fit
