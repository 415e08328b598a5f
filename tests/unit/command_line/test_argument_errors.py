"""A parser's error in one line."""

from typing import Literal

import pytest

from quail_lightning.command_line.argument_parser import SuggestingParser
from quail_lightning.commands.finetune import FinetuneRecipe
from quail_lightning.objectives import Term


@pytest.fixture(scope="module")
def parser():
    made = SuggestingParser()
    made.verb = "quantize"
    made.add_argument("--rate", type=float)
    made.add_argument("--steps", type=int | None)
    made.add_argument("--bits", type=int, nargs="+")
    made.add_argument("--schedule", type=Literal["joint", "epoch"])
    made.add_argument("--recipe", type=FinetuneRecipe | None)
    made.add_argument("--names", type=list[str])
    made.add_argument("--pair", type=tuple[float, float])
    made.add_argument("--term", type=Term | None)
    made.add_argument("--out", required=True)
    return made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--rate=fast", "rate does not fit; got fast. Allowed: a finite number."),
        ("--rate=nan", "rate does not fit; got nan. Allowed: a finite number."),
        ("--steps=2.5", "steps does not fit; got 2.5. Allowed: a whole number or null."),
        ("--bits=x", "bits does not fit; got x. Allowed: a whole number."),
        ("--schedule=never", "schedule does not fit; got never. Allowed: joint, epoch."),
        ("--recipe=3", "recipe does not fit; got 3."),
        (
            "--recipe.optimization.epochs=two",
            "optimization.epochs does not fit; got two. Allowed: a whole number.",
        ),
        ("--names=one", "names does not fit; got one. Allowed: a list."),
        ("--pair=[1]", "pair does not fit; got [1]."),
        ("--term=GradientAscnt", "term names no class that can be imported; got 'GradientAscnt'."),
        ("--term=quail_lightning.objectives.GradientAscnt", "mean 'quail_lightning.objectives.GradientAscent'?"),
        ("--rat=3", "Did you mean 'rate'?"),
        ("--nosuchthing=3", "unrecognized arguments: --nosuchthing=3."),
    ],
)
def test_an_error_is_one_line(parser, given, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--out=x", given])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert message.startswith("error: ")
    assert "All options: quail quantize --help" in message


def test_what_is_missing_is_shown_by_an_example(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "arguments are required: out. For example:\n  quail quantize DIR --to awq4" in capsys.readouterr().err
