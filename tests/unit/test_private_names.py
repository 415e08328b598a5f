"""Where a library's private name is used, the line says why: the next release may have none."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "quail_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMED_TUPLES = {"_asdict", "_replace", "_fields", "_make"}  # public, for all their underscores
STANDARD = {"_exit"}  # os._exit is documented


def private_uses(path):
    """Line → private name of something that the file itself does not define."""
    source = path.read_text("utf-8")
    tree = ast.parse(source)
    own = {name for node in ast.walk(tree) if (name := getattr(node, "name", None))}
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_self(node.value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            inherited = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
            if is_private(node.attr) and (inherited or node.attr not in own) and not is_self(node.value):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from ((node.lineno, name) for name in names if is_private(name) and name != "__future__")


def is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLES | STANDARD


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_private_name_has_its_reason_beside_it(path):
    lines = path.read_text("utf-8").splitlines()
    for number, name in private_uses(path):
        here = lines[max(0, number - 2) : number]
        assert any("private: " in line for line in here), f"line {number}: {name}"
