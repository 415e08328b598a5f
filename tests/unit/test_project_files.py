"""What stands beside the package says the same everywhere."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_licence_and_citation_agree_with_the_project() -> None:
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert all(f"\n   {number}. " in licence for number in range(1, 10))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "version" not in citation, "it stands in pyproject.toml alone"


def test_commit_hooks_fetch_nothing_and_check_what_ci_checks() -> None:
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert {repo["repo"] for repo in repos} == {"local"}
    hooks = [hook for repo in repos for hook in repo["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    checked = (ROOT / ".ci/run").read_text("utf-8").replace("$VENV/bin/", "").replace('"', "")
    assert {hook["name"] for hook in hooks} == {"ruff check", "ruff format", "mypy"}
    assert all(f"\n{hook['name']} " in checked for hook in hooks)


def test_every_shipped_config_evaluates_what_the_documentation_quantizes_to() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    pages += [*(ROOT / "docs/examples").glob("*.py"), *(ROOT / "configs").rglob("*.yaml")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    quantized = set(re.findall(r"quantize [^\n]*--to[ =]([\w-]+)", text))
    quantized |= set(re.findall(r"""quantize\([^)]*to=["']([\w-]+)""", text))
    assert quantized
    evaluated = {}
    for config in (ROOT / "configs").glob("*.yaml"):
        evaluated[config.name] = set(yaml.safe_load(config.read_text("utf-8"))["evaluation"]["precisions"])
    for config in (ROOT / "configs/folds").glob("*.yaml"):
        found = yaml.safe_load(config.read_text("utf-8"))
        listed = re.findall(r"evaluation\.precisions=\[(.*)\]", "\n".join(found.get("options", [])))
        base = set().union(*(evaluated[name] for name in found["fit"] if name in evaluated))
        evaluated[config.name] = set(listed[0].split(", ")) if listed else base
    assert len(evaluated) > 10
    assert {name: quantized - precisions for name, precisions in evaluated.items() if quantized - precisions} == {}
