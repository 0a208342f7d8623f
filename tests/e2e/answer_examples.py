"""Answers of a model server that calls its model `target-8b`, which its clients call `alias`."""

from __future__ import annotations

EVENTS = [
    b'data: {"id":"1","model":"target-8b","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n',
    b'data: {"id":"1","model":"target-8b","choices":[{"index":0,"delta":{"content":"The \\"model\\": "}}]}\n\n',
    b'data: {"id":"1","model":"target-8b","choices":[{"index":0,"delta":{"content":"\\u00e9\xc3\xa9 1e400"}}]}\n\n',
    b": a comment of target-8b\r\n\r\n",
    b'data: {"id":"1","model":"target-8b","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"id":"1","model":"target-8b","choices":[],"usage":{"prompt_tokens":70,"completion_tokens":20,'
    b'"total_tokens":90,"prompt_tokens_details":{"cached_tokens":64}}}\n\n',
    b"data: [DONE]\n\n",
]
USAGE = {"prompt_tokens": 70, "cached_tokens": 64, "completion_tokens": 20, "finish_reason": "stop"}
CHAT_ANSWER = (
    b'{ "model" :"target-8b", "choices":[{"index":0,"message":{"content":"\\"model\\":\\"target-8b\\" \xc3\xa9"},'
    b'"finish_reason":"length"}], "n": 1e400, "usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}\n'
)
MESSAGES = [
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"target-8b","content":[],"usage":'
    b'{"input_tokens":10,"cache_read_input_tokens":60,"output_tokens":1}}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    b'"text":"Hi"}}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":'
    b'{"output_tokens":12}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
]
RESPONSES = [
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","model":"target-8b",'
    b'"status":"in_progress"}}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Hi"}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r","model":"target-8b",'
    b'"status":"completed","usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},'
    b'"output_tokens":2,"total_tokens":11}}}\n\n',
]


def restored(body: bytes) -> bytes:
    return body.replace(b'"model":"target-8b"', b'"model":"alias"').replace(
        b'"model" :"target-8b"', b'"model" :"alias"'
    )
