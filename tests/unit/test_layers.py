"""Imports point only downward, siblings do not import each other (docs/decisions.md, the layers)."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "quail_lightning"
LAYERS = [
    {"__main__"},
    {"cli"},
    {"command_line"},
    {"commands"},
    {"sweep"},
    {"analysis", "callbacks", "report"},
    {"unlearning", "evaluation", "comparison", "hardening"},
    {"inference"},
    {"attacks"},
    {"finetuning"},
    {"reference", "quantization", "conversion"},
    {"objectives", "data", "models"},
    {"functional"},
    {"run"},
    {"configuration"},
    {"storage"},
    {"terminal", "errors"},
]
LEVEL = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(module: str) -> str:
    return module.split(".")[1]


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("quail_lightning."):
                yield room_of(name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in LEVEL, f"{own} has no place in the layers"
    for room in imported_rooms(path):
        assert room == own or LEVEL[room] > LEVEL[own], f"{own} imports {room}"


def imports_when_loaded(path):
    """The modules that a file imports at its own level, by name."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_module_imports_itself_by_a_detour():
    parts = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    names = {".".join(p[:-1] if p[-1] == "__init__" else p): path for path, p in parts.items()}
    imported = {name: {*imports_when_loaded(path)} & names.keys() - {name} for name, path in names.items()}
    try:
        list(TopologicalSorter(imported).static_order())
    except CycleError as cycle:
        pytest.fail(" imports ".join(reversed(cycle.args[1])))


def test_no_module_is_a_grab_bag_or_overlong():
    for path in FILES:
        assert path.stem not in {"utils", "common", "helpers", "misc"}
        assert len(path.read_text("utf-8").splitlines()) <= 400, path
