"""Explains decisions: the real core is asked, and asked again with one thing changed."""

from .changes import Change, what_would_change
from .explanation import Explanation, explain
from .levers import counted
from .question import Question, cache, synthetic_prefix

__all__ = [
    "Change",
    "Explanation",
    "Question",
    "cache",
    "counted",
    "explain",
    "synthetic_prefix",
    "what_would_change",
]
