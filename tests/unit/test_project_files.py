"""What stands beside the package says the same everywhere."""

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
