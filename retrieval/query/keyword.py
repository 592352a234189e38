"""Keyword queries: the content words of a question as an FTS5 expression.

Any text is allowed in a question: FTS5's own query language (``AND``, ``NEAR``, ``*``, quotes, column filters) never
reaches it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TERM = re.compile(r"[^\W_]+")  # letters and digits, as FTS5's unicode61 cuts words
_MAX_TERMS = 64  # a spoken question has fewer; FTS5 refuses expressions that are too deep

STOPWORDS = frozenset(
    """
    a about after all also am an and any are as at be because been before being but by can could d did do does doing don
    each else for from get give go going got had has have having he hello her here hers hey hi him his how i if in into
    is it its just know let like ll m may maybe me might mine much must my need no not of off oh ok okay on one or our
    ours out over please re s shall she should so some such t tell than thank thanks that the their theirs them then
    there these they this those to too uh um us ve very want was we well were what when where which who whom whose why
    will with would yes you your yours
    """.split()
)
"""English stop words, fillers of spoken language among them."""


def terms(text: str) -> list[str]:
    """All words of a text in lower case, in order."""
    return _TERM.findall(text.lower())


def content_terms(text: str) -> list[str]:
    """The words that a question is about.

    Args:
        text: Any text.

    Returns:
        Up to 64 distinct words in lower case, in order, without stop words; with them if there is nothing else.
    """
    distinct = list(dict.fromkeys(terms(text)))
    return ([term for term in distinct if term not in STOPWORDS] or distinct)[:_MAX_TERMS]


def match_expression(words: Sequence[str]) -> str:
    """An FTS5 expression that matches texts with any of these words."""
    return " OR ".join(f'"{term}"' for term in words)
