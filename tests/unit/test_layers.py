"""Imports point only downward, siblings do not import each other (docs/decisions.md, the layers)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "quail_lightning"
LAYERS = [
    {"__main__"},
    {"cli"},
    {"lightning_cli"},
    {"commands"},
    {"leftovers"},
    {"analysis", "callbacks"},
    {"unlearning", "finetuning", "evaluation", "comparison"},
    {"reference", "quantization"},
    {"objectives", "data", "models"},
    {"functional"},
    {"resuming", "endings"},
    {
        "batch",
        "results",
        "config_files",
        "argument_parser",
        "terminal",
        "run_folder",
        "run_record",
        "processes",
        "trainer_options",
        "training_state",
    },
    {"readable", "disk_room"},
    {"import_gate", "argument_errors"},
    {"allowed_code", "bounded_yaml"},
    {"locks", "vouched"},
    {"durable", "out_of_memory", "masking", "parent"},
    {"errors", "privacy"},
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


def test_no_module_is_a_grab_bag_or_overlong():
    for path in FILES:
        assert path.stem not in {"utils", "common", "helpers", "misc"}
        assert len(path.read_text("utf-8").splitlines()) <= 400, path
