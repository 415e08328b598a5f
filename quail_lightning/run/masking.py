"""Secrets among options (tokens, keys, passwords) are not written down with a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

MASK = "***"
_SECRET_NAME = re.compile(
    r"(?:token|password|passwd|passphrase|secret|credentials?|authorization|api[_-]?keys?|"
    r"(?:access|auth|api|refresh|hub|hf)[_-]?tokens|(?:^|[_\-.])(?:key|key[_-]id|pass|pwd|auth|bearer|cookies?|sas|jwt))$",
    re.IGNORECASE,
)
_SPECIAL_TOKEN = re.compile(r"(?:^|[_\-.])(?:pad|eos|bos|unk|sep|cls|mask|new|per)[_-]token$", re.IGNORECASE)
# by the issuers' prefixes; a folder may be called hf_checkpoints, so a short one has a digit
_SECRET_VALUE = re.compile(
    r"\b(?:hf_(?:[A-Za-z0-9]{16,}|(?=[A-Za-z]*\d)[A-Za-z0-9]{6,})|api_org_\w{8,}|(?:sk|pk|rk)[-_][\w\-]{8,}|"
    r"gh[oprsu]_\w{8,}|github_pat_\w{8,}|glpat-[\w\-]{8,}|xox[a-z]-[\w\-]{8,}|(?:AKIA|ASIA)[A-Z0-9]{8,}|"
    r"AIza[\w\-]{16,}|ya29\.[\w\-]{8,}|eyJ[\w\-]{8,}\.[\w\-]+(?:\.[\w\-]*)?|npm_\w{16,}|pypi-[\w\-]{16,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    re.DOTALL,
)
_USER_IN_URL = re.compile(r"(?<=://)[^/\s'\"]+(?=@)")
_AUTHORIZATION = re.compile(r"\b(bearer|basic|(?<=:)\s*(?:token|digest))\s+[^\s'\",}\]]+", re.IGNORECASE)
# inside a text: {password: ...}, "token": "...", ?api_key=...
_NAME = re.compile(r"([\w\-.]+)['\"]?\s*[=:]\s*")
_VALUE = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s'\",;&}\]]+")


def masked(value: Any, name: str = "") -> Any:
    """A copy of options, as they stand in a config, without what looks like a secret. Masked twice is masked once.

    Args:
        value: dictionaries, lists, strings, numbers.
        name: the option's.
    """
    is_secret = is_secret_name(name)
    if isinstance(value, Mapping):
        return {key: masked(item, name if is_secret else str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item, name) for item in value]
    if isinstance(value, tuple):
        return tuple(masked(item, name) for item in value)
    if is_secret and value is not None and not isinstance(value, bool):
        return MASK
    return _masked_text(value) if isinstance(value, str) else value


def masked_yaml(text: str) -> str:
    """A config without what looks like a secret; as it is where there is none."""
    content = yaml.safe_load(text)
    shown = masked(content)
    return text if shown == content else yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def masked_command(arguments: Sequence[str]) -> list[str]:
    """A command line without what looks like a secret: after ``--x.token`` or ``--x.token=``, and by its look."""
    shown: list[str] = []
    hides_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_secret = argument.startswith("-") and is_secret_name(name)
        if is_secret and equals:
            shown.append(f"{name}={MASK}")
        else:
            shown.append(MASK if hides_next and not argument.startswith("--") else _masked_text(argument))
        hides_next = is_secret and not equals
    return shown


def is_secret_name(name: str) -> bool:
    """Whether an option's name says that its value is a secret."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)  # apiKey
    return bool(_SECRET_NAME.search(words)) and not _SPECIAL_TOKEN.search(words)


def _masked_text(text: str) -> str:
    text = _SECRET_VALUE.sub(MASK, text)
    text = _USER_IN_URL.sub(MASK, text)
    text = _AUTHORIZATION.sub(rf"\1 {MASK}", text)
    shown, start = [], 0
    for found in _NAME.finditer(text):
        value = _VALUE.match(text, found.end())
        if found.start() >= start and is_secret_name(found[1]) and value:
            shown += [text[start : found.end()], MASK]
            start = value.end()
    return "".join([*shown, text[start:]])
