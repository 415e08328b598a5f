"""A figure as an element of a page: no file, no address, names of its own."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = re.compile(r'(\bid="|url\(#|href="#)')
_NAMESPACES = re.compile(r' xmlns(?::xlink)?="[^"]*"')


def inline_svg(figure: Figure, prefix: str, alternative: str) -> Markup:
    """The figure as an ``<svg>`` element for an HTML page.

    Args:
        figure: drawn by matplotlib.
        prefix: of every name in it, so that two figures of a page share none.
        alternative: what is said to who cannot see it.
    """
    from matplotlib import rc_context

    written = io.StringIO()
    # text stays text: it can be read, searched and enlarged
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "quail"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=nothing, facecolor="white")
    text = written.getvalue()
    text = text[text.index("<svg") :]
    opening, rest = text.split(">", 1)
    opening = _NAMESPACES.sub("", opening).replace(' version="1.1"', "")
    label = Markup.escape(alternative)
    named = _NAMES.sub(rf"\g<1>{prefix}-", rest)
    return Markup(f'{opening} role="img" aria-label="{label}">{named}')
