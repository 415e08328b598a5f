"""The page: verdict first, whole in itself, valid, accessible, and deaf to what is in the text that it shows."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from fabricated_run import BACK, GONE, fabricate, keep_responses, log_losses, rows

from quail_lightning.errors import InputError
from quail_lightning.evaluation.verdict import Verdict
from quail_lightning.report.finished_run import FinishedRun, read_run
from quail_lightning.report.page import as_html
from quail_lightning.run.results import Estimate, ResultRow

HOSTILE = "<script>alert(1)</script>\"'&<img src=http://evil.example/x onerror=y>"
VOID = {"meta", "link", "img", "br", "hr", "input"}
FIGURES = [
    {"model": "unlearned", "precision": "nf4", "metric": "verbmem_forget", "published": 25.0,
     "here": {"value": 8.0, "n": 24, "low": 6.0, "high": 9.0}, "difference": -17.0},
    {"model": "unlearned", "precision": "nf4", "metric": "knowmem_forget", "published": 31.5},
]  # fmt: skip
PUBLISHED = {"row": "failure/news/ga", "source": "a paper, Table 2", "notes": ["a departure"], "figures": FIGURES}


class Page(HTMLParser):
    """Elements in order, with their attributes and text; every element that is opened is closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.texts: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text: list[str] = []
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs), text))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.append(text)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.texts.pop()

    def handle_data(self, data: str) -> None:
        for text in self.texts:
            text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def said(self, *tags: str) -> list[str]:
        return [" ".join(" ".join(text).split()) for name, _, text in self.elements if name in tags]


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    folder = fabricate(tmp_path / "run", published=PUBLISHED, note="cut from windows")
    log_losses(folder)
    keep_responses(folder)
    return read_run(folder)


def test_the_verdict_stands_first_and_the_sections_follow_in_order(run: FinishedRun) -> None:
    page = Page(as_html([run]))
    assert page.said("title") == page.said("h1") == ["Unlearning report: run"]
    first = [
        name
        for name, attributes, _ in page.elements
        if name in ("h1", "h2") or attributes.get("class") == "headline"
    ]
    assert first[:2] == ["h1", "p"]
    assert page.said("h3") == [
        "Verdict for each format",
        "Came back in each format",
        "What arrives of the update",
        "Figures",
        "Beside published figures",
        "Training",
        "Limits",
        "Where it comes from",
    ]


def test_figures_stand_there_with_interval_and_n(run: FinishedRun) -> None:
    page = Page(as_html([run]))
    cells = page.said("td")
    assert "8.0 [6.0, 9.0]" in cells, "verbatim recall of the unlearned model at NF4"
    assert "−14.0 [−24.0, −4.0]" in cells, "PrivLeak"
    assert "2 % [−1, 4]" in cells, "what came back"
    assert "– nothing was forgotten of it" in cells
    assert "77.0 [75.0, 78.0]" not in cells, "the last epoch alone"
    lines = page.said("tr")
    assert "Verbatim recall ↓, × 100 8.0 [6.0, 9.0] 95.0 [93.0, 96.0] 11.0 [9.0, 12.0] 24" in lines
    assert "unlearned, nf4: Verbatim recall ↓ 25.0 8.0 [6.0, 9.0] −17.0 24" in lines
    assert "unlearned, nf4: Forget Q&A ↓ 31.5" in lines, "published, and not run here"
    assert "cut from windows" in page.said("p")
    assert "Published: a paper, Table 2." in page.said("p")


def test_what_the_figures_come_from_and_do_not_say_is_there(run: FinishedRun) -> None:
    page = Page(as_html([run]))
    text = " ".join(page.said("main"))
    for known in (
        "cd" * 32,
        "01" * 32,
        "ef" * 32,
        "ab" * 32,
        "quail-lightning ",
        "torch ",
        "corpus: checkpoints/corpus",
    ):
        assert known in text
    limits = page.said("li")
    assert any("24 to 120 records" in limit for limit in limits)
    assert any("bfloat16 arithmetic" in limit for limit in limits)
    assert any("Came back: forget Q&A: nothing was forgotten of it." in limit for limit in limits)


def test_limits_name_simulated_formats_attacks_and_what_is_missing(tmp_path: Path) -> None:
    names = ["bf16", "uniform4-group64", "prune30+nf4", "of_another_installation"]
    found = [ResultRow("unlearned", name, {"verbmem_forget": Estimate(1, 24, 0, 2)}, epoch=1) for name in names]
    verdicts = dict.fromkeys(names, GONE)
    limits = Page(as_html([read_run(fabricate(tmp_path / "run", evaluated=found, verdicts=verdicts))])).said("li")
    assert any(limit.startswith("uniform4-group64: simulated") for limit in limits)
    assert any(limit.startswith("prune30+nf4: after an attack") for limit in limits)
    assert any(limit.startswith("of_another_installation: not known") for limit in limits)
    assert any(limit.startswith("There was no retrained model") for limit in limits)
    alone = fabricate(tmp_path / "alone", evaluated=found[:1], verdicts={"bf16": GONE})
    page = Page(as_html([read_run(alone)]))
    assert any(limit.startswith("No quantized format was tested") for limit in page.said("li"))
    assert "No quantized format was tested." in page.said("p")


def test_the_page_asks_nothing_of_anybody(run: FinishedRun) -> None:
    text = as_html([run], with_responses=True)
    assert not re.search(r"https?:|//[a-z]|@import|javascript:|<script|<link|<iframe|<img|<object|<embed", text)
    assert not re.search(r'(?:src|srcset|poster|action)="', text)
    assert {value for value in re.findall(r'href="([^"]*)"', text) if not value.startswith("#")} == set()
    assert all(reference.startswith("#") for reference in re.findall(r"url\(([^)]*)\)", text))
    assert "default-src 'none'" in text, "what slipped through would still not be fetched"


def test_the_page_can_be_read_by_those_who_hear_it_or_use_the_keyboard(run: FinishedRun) -> None:
    page = Page(as_html([run, run_beside(run)], with_responses=True))
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(name[1]) for name, _, _ in page.elements if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(page.said("caption")) == len(page.all("table"))
    assert all(page.said("caption"))
    assert all(heading.get("scope") in ("row", "col") for heading in page.all("th"))
    svgs = page.all("svg")
    assert len(svgs) == 6, "two formats, two charts for each run"
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in svgs)
    scrolled = [attributes for _, attributes, _ in page.elements if attributes.get("class") == "scroll"]
    assert all(each["tabindex"] == "0" and each["role"] == "region" and each["aria-label"] for each in scrolled)
    assert len({each["aria-label"] for each in scrolled}) == len(scrolled), "each can be told from the others"
    names = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    links = [attributes.get("href") or attributes.get("xlink:href") for _, attributes, _ in page.elements]
    assert {link.removeprefix("#") for link in links if link} <= set(names)


def run_beside(run: FinishedRun) -> FinishedRun:
    """Another run beside this one, whose forgetting came back."""
    folder = fabricate(run.folder.parent / "other", evaluated=rows(20.0), verdicts={"bf16": GONE, "nf4": BACK})
    log_losses(folder)
    keep_responses(folder)
    return read_run(folder)


@pytest.mark.parametrize("foreground", ["1b1b1b", "4a4a4a", "00509e", "1a6b3c", "8a5a00", "a3141e", "595959"])
def test_colours_have_the_contrast_that_small_text_needs(foreground: str, run: FinishedRun) -> None:
    def luminance(colour: str) -> float:
        shares = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert f"#{foreground}" in as_html([run])
    for background in ("ffffff", "f4f4f4"):
        assert (luminance(background) + 0.05) / (luminance(foreground) + 0.05) >= 4.5


def test_several_runs_are_told_apart_and_set_side_by_side(run: FinishedRun) -> None:
    page = Page(as_html([run, run_beside(run)]))
    assert page.said("h2") == ["Runs side by side", "run", "other"]
    tones = [
        attributes["class"] for _, attributes, _ in page.elements if "finding" in (attributes.get("class") or "")
    ]
    assert tones == ["finding good", "finding bad"]
    assert [attributes["href"] for attributes in page.all("a")] == ["#run-1", "#run-2"]
    assert "The text was forgotten, but it came back in nf4." in page.said("p")
    assert "Runs at nf4, with 95 % intervals" in page.said("caption")
    lines = page.said("tr")
    assert lines.count("measure run other target retrained n") == 2
    assert "survives yes no" in lines
    recall = "Verbatim recall ↓, × 100 8.0 [6.0, 9.0] 18.0 [16.0, 19.0] 95.0 [93.0, 96.0] 11.0 [9.0, 12.0] 24"
    assert recall in lines


def test_responses_are_left_out_unless_asked_for_and_then_folded_behind_a_warning(run: FinishedRun) -> None:
    assert "truth 0" not in as_html([run])
    page = Page(as_html([run], with_responses=True))
    assert "Responses" in page.said("h3")
    (private,) = [n for n, (_, attributes, _) in enumerate(page.elements) if attributes.get("class") == "private"]
    tag, attributes, _ = page.elements[private]
    assert (tag, "open" in attributes) == ("details", False)
    assert "".join(page.elements[private + 1][2]).startswith("Private text")
    assert page.elements[private + 1][0] == "summary"
    shown = page.said("tr")
    for line in (
        "prompt prompt 0",
        "truth truth 0",
        "target bf16 target speaks 0",
        "unlearned nf4 what it said 0",
    ):
        assert line in shown


def test_responses_that_were_removed_are_not_shown_as_none(tmp_path: Path) -> None:
    run = read_run(fabricate(tmp_path / "run"))
    with pytest.raises(InputError, match="keeps no responses: they were removed"):
        as_html([run], with_responses=True)


def test_only_the_first_responses_are_shown_and_how_many_there_are(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run")
    keep_responses(folder, asked=7)
    page = Page(as_html([read_run(folder)], with_responses=True))
    assert page.said("h4") == ["Verbatim recall: the first 5 of 7"]
    assert "truth truth 4" in page.said("tr")
    assert "truth truth 5" not in page.said("tr")


def test_whatever_the_user_named_is_text_and_never_an_element(tmp_path: Path) -> None:
    hostile = HOSTILE.replace("/", "|")
    said = Verdict("yes", "yes", "yes", "no", "yes", HOSTILE)
    found = [
        ResultRow(
            row.model,
            hostile if row.precision == "nf4" else row.precision,
            {**row.metrics, HOSTILE: Estimate(1, 2, 0, 3, caution=HOSTILE)},
            row.epoch,
        )
        for row in rows()
    ]
    beside = PUBLISHED | {"source": HOSTILE, "notes": [HOSTILE]}
    folder = fabricate(
        tmp_path / hostile,
        evaluated=found,
        verdicts={"bf16": said, hostile: said},
        published=beside,
        provenance={"target": HOSTILE, "target_sha256": {HOSTILE: HOSTILE}},
        configured={"model": {"target": HOSTILE}, HOSTILE: HOSTILE},
        method=HOSTILE,
        note=HOSTILE,
    )
    log_losses(folder)
    keep_responses(folder, said=HOSTILE)
    text = as_html([read_run(folder)], with_responses=True)
    page = Page(text)
    assert not {"script", "img"} & {name for name, _, _ in page.elements}
    assert "<script" not in text
    assert not any(name.startswith("on") for _, attributes, _ in page.elements for name in attributes)
    assert text.count("&lt;script&gt;") > 10


def test_a_run_without_losses_or_verdicts_says_so(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", verdicts={})
    (folder / "events.out.tfevents.1.a.1.0").write_bytes(b"no events")
    page = Page(as_html([read_run(folder)]))
    assert "The run's folder holds no losses in TensorBoard's event files." in page.said("p")
    assert page.said("p").count("The run wrote no verdict.") == 2
