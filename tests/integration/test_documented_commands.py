"""Every command of the documentation passes the program's parser, every file that it names is there."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from quail_lightning.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)
PROGRAM = re.compile(r"(?:^|\s)(?:\S*/)?(?:quail|(?:python )?-m quail_lightning)\s+(.*)")
OWN_TEXT = ["--data.forget", "my.txt", "--data.retain", "other.txt", "--model.target", "TARGET"]


def blocks(*languages):
    """(page, text) of every block of code in these languages."""
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text("utf-8")):
            if language in languages:
                yield page.relative_to(ROOT), text


def commands():
    """(page, arguments) of every call of the program; optional parts are given, what is left out is filled in."""
    for page, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            if found := PROGRAM.search(line):
                words = shlex.split(found[1].replace("[--", "--").replace("DIR]", "DIR"), comments=True)
                words = words[: words.index("&")] if "&" in words else words
                if "winner.yaml" in found[1] or (words[0] == "doctor" and "--config" not in words):
                    continue  # a sweep writes that; and there is nothing to parse
                if words[0] == "doctor":  # it takes what fit takes
                    words = [
                        "fit",
                        *(word for word in words[1:] if word not in ("--measure", "--json", "found.json")),
                    ]
                filling = OWN_TEXT if "own.yaml" in words else OWN_TEXT[:4]
                yield page, [part for word in words for part in (filling if word == "..." else [word])]


COMMANDS = list(dict.fromkeys((str(page), tuple(words)) for page, words in commands()))


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=str)
def test_a_documented_command_passes_the_parser(page, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--print_config"])
    assert ended.value.code in (None, 0), capsys.readouterr().err


def test_there_are_commands_on_the_pages():
    assert len(COMMANDS) > 70
    assert {words[0] for _, words in COMMANDS} >= {"fit", "evaluate", "analyze", "quantize", "finetune", "clean"}


@pytest.mark.parametrize(("page", "text"), list(blocks("python")), ids=lambda value: str(value)[:40])
def test_a_documented_piece_of_python_is_valid_and_imports_what_there_is(page, text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("quail_lightning"):
            module = __import__(node.module, fromlist=["_"])
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_every_benchmark_that_is_named_is_there():
    named = {name for _, text in blocks("bash") for name in re.findall(r"benchmarks/\w+\.py", text)}
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:|mailto:|configuration.md", target):  # the last is made with the site
            name, _, anchor = target.partition("#")
            found = (page.parent / name).resolve() if name else page
            assert found.exists(), target
            if anchor and found.suffix == ".md":
                assert anchor in anchors(found), target


def anchors(page):
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
