"""The documentation's site is built without a warning, whole, and asks nobody else for anything."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from quail_lightning.unlearning import UnlearningModule

ROOT = Path(__file__).parents[2]
pytest.importorskip("mkdocstrings")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built with strict links and anchors: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(pages | {"configuration.md"})
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["strict"] is True


def test_the_reference_has_every_option_of_the_module(site) -> None:
    text = (site / "configuration/index.html").read_text("utf-8")
    for name in inspect.signature(UnlearningModule).parameters:
        assert f"<td><code>{name}</code></td>" in text
    assert "<td></td>\n</tr>" not in text, "an option without its meaning"


def test_the_programming_interface_is_described(site) -> None:
    text = (site / "api/index.html").read_text("utf-8")
    for name in ("commands.evaluate.evaluate", "commands.quantize.quantize", "unlearning.UnlearningModule"):
        assert f'id="quail_lightning.{name}"' in text


def test_no_page_loads_anything_from_elsewhere(site) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert re.findall(r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="(https?:[^"]*)"', text) == [], page
