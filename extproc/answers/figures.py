"""What is known of an answer when its body has been read."""

from msgspec import Struct


class Usage(Struct, frozen=True):
    """Token counts as the server told them; None where it told nothing."""

    prompt_tokens: int | None = None
    """All of the prompt, cached tokens among them (OpenAI's meaning, whichever API it was)."""
    cached_tokens: int | None = None
    """Of the prompt, what came out of a cache."""
    completion_tokens: int | None = None


class Figures(Struct, frozen=True):
    """Times are in seconds, on the clock of the caller's `now`."""

    usage: Usage | None = None
    finish_reason: str | None = None
    """stop, length, tool_calls, content_filter, error or other. Of several choices it is the first to end in
    another way than `stop`; an error counts before all of them."""
    first_token_at: float | None = None
    """When the first event with content was complete: text, reasoning, or a tool call. Events only."""
    last_token_at: float | None = None
    """When the last such event was complete."""
    content_events: int = 0
    """How many events carried content."""
    untold_events: int = 0
    """How many of them came after the usage that was told last: Messages tell theirs before the first, too."""
    complete: bool = False
    """JSON: the text came to its end. Events: one came that says it is the last."""
    readable: bool = True
    """False: it is no JSON; or, of events, none that came could be read."""

    @property
    def time_per_token_s(self) -> float | None:
        """Mean time between two tokens, from the first to the last; None for less than two.

        What the server told no usage of, or not yet, counts as one token an event.
        """
        if self.first_token_at is None or self.last_token_at is None:
            return None
        told = self.usage.completion_tokens if self.usage is not None else None
        tokens = (told or 0) + self.untold_events
        return (self.last_token_at - self.first_token_at) / (tokens - 1) if tokens > 1 else None
