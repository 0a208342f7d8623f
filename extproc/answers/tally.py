"""Adds up what an answer's texts say."""

from typing import Any, Final

from .fields import Choice, Delta, Fields, IncompleteDetails, Inner, Item, UsageFields
from .figures import Figures
from .usage import UsageTally

_LAST_EVENTS: Final = frozenset(
    ("message_stop", "response.completed", "response.incomplete", "response.failed")
)
_CALLS: Final = ("function_call", "custom_tool_call")
"""Items of Responses by which the client is to do something; other tools have been called by the server."""
_FINISH_REASONS: Final = {
    # OpenAI, vLLM, SGLang
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
    "abort": "error",
    # Messages
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    # Responses: of a status, or of an incomplete one its reason
    "completed": "stop",
    "max_output_tokens": "length",
    "failed": "error",
}


class Tally:
    """Takes the fields of a JSON answer (`text`), or those of each event (`event`)."""

    def __init__(self) -> None:
        self.complete = False
        self.unreadable = False
        """A text came that is no JSON."""
        self._read_any = False
        self._usage = UsageTally()
        self._finish_reason: str | None = None
        self._first_at: float | None = None
        self._last_at: float | None = None
        self._content_events = 0
        self._untold_events = 0

    @property
    def figures(self) -> Figures:
        return Figures(
            usage=self._usage.usage,
            finish_reason=self._finish_reason,
            first_token_at=self._first_at,
            last_token_at=self._last_at,
            content_events=self._content_events,
            untold_events=self._untold_events,
            complete=self.complete,
            readable=self._read_any or not self.unreadable,
        )

    def event(self, fields: Fields, now: float) -> None:
        if _has_content(fields):
            self._content_events += 1
            self._untold_events += 1
            self._last_at = now
            if self._first_at is None:
                self._first_at = now
        self.text(fields)
        if isinstance(fields.type, str) and fields.type in _LAST_EVENTS:
            self.complete = True

    def last_event(self) -> None:
        """[DONE]."""
        self._read_any = True
        self.complete = True

    def text(self, fields: Fields) -> None:
        self._read_any = True
        self._take_usage(fields.usage)
        if fields.choices is not None:
            self._take_choices(fields.choices)
        else:
            self._take_others(fields)
        if fields.error or fields.type == "error":
            self._finish_reason = "error"

    def _take_choices(self, choices: object) -> None:
        if not isinstance(choices, list):
            return
        for choice in choices:
            if isinstance(choice, Choice) and choice.finish_reason is not None:
                self._ended(choice.finish_reason)

    def _take_others(self, fields: Fields) -> None:
        """What Messages and Responses say, whole or in events."""
        self._ended(fields.stop_reason)
        if isinstance(fields.delta, Delta):
            self._ended(fields.delta.stop_reason)
        self._take_status(fields)
        for inner in (fields.message, fields.response):
            if isinstance(inner, Inner):
                self._take_usage(inner.usage)
                self._take_status(inner)

    def _take_usage(self, usage: object) -> None:
        if isinstance(usage, UsageFields) and self._usage.take(usage):
            self._untold_events = 0

    def _take_status(self, said: Fields | Inner) -> None:
        details = said.incomplete_details
        if said.status == "incomplete":
            reason = details.reason if isinstance(details, IncompleteDetails) else None
            self._ended(reason or "other")
        elif said.status == "completed":
            self._ended("tool_calls" if _calls_tools(said.output) else "completed")
        elif said.status in ("failed", "cancelled"):
            self._ended(said.status)

    def _ended(self, reason: Any) -> None:
        """Of several choices the first to end in another way than `stop` counts."""
        if isinstance(reason, str) and self._finish_reason in (None, "stop"):
            self._finish_reason = _FINISH_REASONS.get(reason, "other")


def _calls_tools(output: object) -> bool:
    return isinstance(output, list) and any(isinstance(item, Item) and item.type in _CALLS for item in output)


def _has_content(fields: Fields) -> bool:
    """The event adds to the answer; one that only begins it, with a role or an empty text, does not."""
    choices = fields.choices
    if isinstance(choices, list):
        return any(isinstance(choice, Choice) and _adds(choice) for choice in choices)
    delta = fields.delta
    if isinstance(delta, Delta):
        return bool(delta.text or delta.thinking or delta.partial_json)
    return bool(delta) and isinstance(fields.type, str) and fields.type.endswith(".delta")


def _adds(choice: Choice) -> bool:
    if choice.text:
        return True
    delta = choice.delta
    return isinstance(delta, Delta) and bool(
        delta.content
        or delta.reasoning_content
        or delta.reasoning
        or delta.tool_calls
        or delta.function_call
        or delta.refusal
    )
