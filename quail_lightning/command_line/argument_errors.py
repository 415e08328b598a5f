"""What a parser's long error says, in one line: the option, what it must be, and what was given."""

from __future__ import annotations

import re
from collections.abc import Iterator

_KEY = re.compile(r"Parser key \"([\w.]+)\"(?: element \d+)?:")
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?")
_GIVEN = re.compile(r"Given value: (.*)")
_NESTED = re.compile(r"NestedArg\(key='([\w.]+)', val=(.*)\)")
_IS_LITERAL = re.compile(r"typing\.Literal\[(.*)\]")
_NAMES = {
    "<class 'float'>": "a finite number",
    "<class 'int'>": "a whole number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "a text",
    "<class 'dict'>": "a mapping",
    "<class 'list'>": "a list",
    "<class 'collections.abc.Sequence'>": "a list, such as [a, b]",
    "<class 'NoneType'>": "null",
}
_UNSAID = ("dot import path string", "path but")  # attempts to read any value as a class or a file
_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_NOT_A_MAPPING = re.compile(r"Unable to load config (['\"])(.*?)\1")
_OPTIONS = "its options, one by one or as {name: value}"
_UNKNOWN = re.compile(r"class_path '([\w.]+)':\s+Option '(\w+)' is not accepted")
_ABSENT = re.compile(r"given class_path '([\w.]+)':\s+module '[\w.]+' has no attribute")


def one_line(message: str) -> str:
    """A parser's error without its list of attempts.

    A value that fits none of several types is reported once for each, nested as the types are; the report on the
    innermost option is the one that its author can act on.
    """
    reports = [report for report in _reports(message) if report[2] or report[1]]
    keys = max((report[0] for report in reports), key=len, default=())
    allowed = list(dict.fromkeys(named for place, named, _ in reports if place == keys and named))
    wants_class = len(keys) < 2 and not set(allowed) - {"null", "a list"}
    if match := _UNKNOWN.search(message):
        return f"{next(iter(_KEY.findall(message)), 'class_path')} has no option {match[2]!r} ({match[1]})"
    if match := _ABSENT.search(message) or (_CLASS.search(message) if wants_class else None):
        option = next(iter(_KEY.findall(message)), "class_path")
        if not match[1][0].isalpha():
            return f"{option} does not fit; got {match[1]}. Allowed: {_OPTIONS}"
        return f"{option} names no class that can be imported; got {match[1]!r}"
    given = next((value for place, _, value in reports if place == keys and value), "")
    if match := _NOT_A_MAPPING.search(message):
        section = ": ".join(_KEY.findall(message[: match.start()])) or "a section"
        return f"{section} does not fit; got {match[2]}. Allowed: {_OPTIONS}"
    if not allowed or not given:
        return " ".join(message.split())
    place = ": ".join(keys) or "".join(re.findall(r"argument ([\w\-/]+)", message)[:1]) or "a value"
    return f"{place} does not fit; got {given}. Allowed: {' or '.join(allowed)}"


def _reports(message: str) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(keys from the outermost to the innermost, expected type in words, given value), each where it is told."""
    open_keys: dict[int, str] = {}  # indentation → key
    for line in message.splitlines():
        text = line.lstrip(" -")
        depth = len(line) - len(text)
        open_keys = {indented: key for indented, key in open_keys.items() if indented < depth or not text}
        if match := _KEY.search(text):
            open_keys[depth] = match[1]
        keys = tuple(open_keys.values())
        if match := _EXPECTED.fullmatch(text):
            yield keys, _in_words(match[1]), match[2] or ""
        elif match := _GIVEN.fullmatch(text):
            nested = _NESTED.fullmatch(match[1])
            yield keys, "", nested[2] if nested else match[1]


def _in_words(expected: str) -> str:
    if expected.startswith(_UNSAID):
        return ""
    if match := _IS_LITERAL.fullmatch(expected):
        return match[1].replace("'", "")
    named = _NAMES.get(expected)
    return named or re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", expected)
