"""What is read of an answer's JSON: of the whole of it, or of one event's data.

One set of fields for all APIs: OpenAI's chat completions, completions, embeddings and rerankings, its Responses, and
Anthropic's Messages. No name means one thing here and another there. A field with a value of another type than
expected reads as what it is, so that one odd field does not hide the others.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

Odd = str | float | bool | None
"""Scalars, where a container is expected."""
OddList = Odd | list[Any]
OddObject = Odd | dict[str, Any]


class TokenDetails(Struct, gc=False):
    cached_tokens: Any = None


class UsageFields(Struct, gc=False):
    """OpenAI's names and those of Responses and Messages, which share two."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: TokenDetails | OddList = None
    input_tokens: Any = None
    output_tokens: Any = None
    input_tokens_details: TokenDetails | OddList = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None


class Delta(Struct, gc=False):
    """What an event adds."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    """vLLM's newer name of `reasoning_content`."""
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    # Messages
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    stop_reason: Any = None


class Choice(Struct, gc=False):
    delta: Delta | OddList = None
    finish_reason: Any = None
    text: Any = None


class IncompleteDetails(Struct, gc=False):
    reason: Any = None


class Item(Struct, gc=False):
    """Of what Responses put out."""

    type: Any = None


class Inner(Struct, gc=False):
    """`message` in Messages' first event, `response` in some of Responses'."""

    model: Any = None
    usage: UsageFields | OddList = None
    status: Any = None
    incomplete_details: IncompleteDetails | OddList = None
    output: list[Item | OddList] | OddObject = None


class Fields(Struct, gc=False):
    type: Any = None
    model: Any = None
    choices: list[Choice | OddList] | OddObject = None
    usage: UsageFields | OddList = None
    delta: Delta | OddList = None
    message: Inner | OddList = None
    response: Inner | OddList = None
    error: Any = None
    stop_reason: Any = None
    status: Any = None
    incomplete_details: IncompleteDetails | OddList = None
    output: list[Item | OddList] | OddObject = None


_DECODER: Final = msgspec.json.Decoder(Fields)


def decoded(text: bytes) -> Fields | None:
    """What a JSON text says; None for what is no JSON object, and for some that are (see `skeleton`)."""
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
