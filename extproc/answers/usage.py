"""Token counts in the words of three APIs."""

from typing import Any, Final

from .fields import TokenDetails, UsageFields
from .figures import Usage

MAX_TOKENS: Final = 1_000_000_000
"""More than any answer has: what a server tells beyond it is a mistake, and would spoil sums."""


class UsageTally:
    """Gathers what an answer tells of its usage, once or in every event: counts are of the whole answer so far, so
    that of each field the last value stands."""

    def __init__(self) -> None:
        self._prompt: int | None = None
        self._completion: int | None = None
        self._total: int | None = None
        self._cached: int | None = None
        self._input: int | None = None
        self._output: int | None = None
        self._cache_read: int | None = None
        self._cache_creation: int | None = None

    def take(self, fields: UsageFields) -> bool:
        """Whether it tells how many tokens there are of the answer itself."""
        self._prompt = _count(fields.prompt_tokens, self._prompt)
        self._completion = _count(fields.completion_tokens, self._completion)
        self._total = _count(fields.total_tokens, self._total)
        self._input = _count(fields.input_tokens, self._input)
        self._output = _count(fields.output_tokens, self._output)
        self._cache_read = _count(fields.cache_read_input_tokens, self._cache_read)
        self._cache_creation = _count(fields.cache_creation_input_tokens, self._cache_creation)
        for details in (fields.prompt_tokens_details, fields.input_tokens_details):
            if isinstance(details, TokenDetails):
                self._cached = _count(details.cached_tokens, self._cached)
        return _is_count(fields.completion_tokens) or _is_count(fields.output_tokens)

    @property
    def usage(self) -> Usage | None:
        usage = Usage(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached if self._cached is not None else self._cache_read,
            completion_tokens=self._completion if self._completion is not None else self._output,
        )
        return usage if usage != _NONE else None

    @property
    def _prompt_tokens(self) -> int | None:
        if self._prompt is not None:
            return self._prompt
        if self._input is not None:
            # Messages count what came from the cache, and what went into it, apart from the input; Responses have
            # neither field, and count it in.
            return self._input + (self._cache_read or 0) + (self._cache_creation or 0)
        if self._completion is None and self._output is None:
            return self._total  # rerankings tell nothing else, and generate nothing
        return None


_NONE: Final = Usage()


def _count(value: Any, before: int | None) -> int | None:
    return value if _is_count(value) else before


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_TOKENS
