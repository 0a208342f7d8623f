"""What an Envoy could say of one request: mostly in its usual order, with headers and bodies that mean something."""

from __future__ import annotations

import gzip

from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from extproc import pin
from extproc.load_report import REPORT_HEADER
from extproc.protocol import codec
from extproc.protocol.messages import (
    Message,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from extproc.protocol.steps import Half
from extproc.protocol.stream import ExtProcStream

from .choices import Choices

PATHS = (
    "/v1/chat/completions",
    "/v1/audio/transcriptions",
    "/v1/models",
    "/v1/models/m",
    "/tokenize?x",
    "/v1/responses",
    "/",
    "",
)
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nRIFF\r\n--b--\r\n'
)
BODIES = (
    b'{"model":"m","prompt":"hello","max_tokens":5}',
    b'{"model":"held","messages":[{"role":"user","content":"hi"}]}',
    b'{"model":"critical"}',
    b'{"model":"shed"}',
    b'{"model":"other"}',
    b'{"messages":[]}',
    FORM,
    b'{"model":"n","input":"' + b"x" * 1400 + b'"}',
)
OPTIONS = (
    ("content-type", "application/json"),
    ("content-type", "multipart/form-data; boundary=b"),
    ("content-encoding", "gzip"),
    ("content-encoding", "compress"),
    ("content-length", "45"),
    ("content-length", "99999999999999999999"),
    ("cookie", "sid=1"),
    ("x-user", "u"),
    ("authorization", "Bearer x"),
    ("x-gateway-model-name", "critical"),
    ("x-llm-d-inference-objective", "low"),
    ("test-epp-endpoint-selection", "10.0.0.2"),
    ("upgrade", "websocket"),
    (pin.DESTINATION, "10.9.9.9:1"),
)
SERVED = (None, None, "10.0.0.1:80", "10.0.0.2:80", "10.0.1.1:80", "10.7.7.7:1")
DETAILS = (
    None,
    "via_upstream",
    "upstream_reset_before_response_started{connection_failure}",
    "route_not_found",
)
ANSWERS = (
    b'data: {"model":"a","choices":[{"delta":{"content":"hi"}}]}\n\n',
    b'data: {"model":"a","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\ndata: [DONE]\n\n',
    b'{"model":"b","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}',
)


class Envoy:
    """One request's, as *choices* have it."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._encoded = False

    def message(self, stream: ExtProcStream) -> Message:
        """What could come next, or anything."""
        choices = self._choices
        what = choices.byte()
        kind = what % 16
        if kind > 5:  # the usual order
            if stream.request is Half.IDLE:
                kind = 0
            elif stream.request in (Half.BODY, Half.ECHO):
                kind = 1
            else:
                kind = 3 if stream.response is Half.IDLE else 4
        end = bool(what & 64)
        match kind:
            case 0:
                return RequestHeaders(self._headers(), end and what & 128 > 0)
            case 1:
                return RequestBody(self._body(), end)
            case 2:
                return RequestTrailers()
            case 3:
                return ResponseHeaders(self._response_headers(), end)
            case 4:
                return ResponseBody(choices.of(ANSWERS) if what & 128 else choices.some(), end)
        return ResponseTrailers()

    def _headers(self) -> dict[str, str]:
        choices = self._choices
        headers = {":method": choices.of(("POST", "GET", "PUT")), ":path": choices.of(PATHS)}
        for _ in range(choices.byte() % 5):
            headers.update([choices.of(OPTIONS)])
        if choices.byte() > 200:
            headers[choices.some().decode("latin-1").lower()] = choices.some().decode("latin-1")
        self._encoded = headers.get("content-encoding") == "gzip"
        return headers

    def _body(self) -> bytes:
        choices = self._choices
        how = choices.byte()
        body = choices.some() if how & 1 else BODIES[how // 2 % len(BODIES)]
        return gzip.compress(body, mtime=0) if self._encoded and how & 128 else body

    def _response_headers(self) -> dict[str, str]:
        choices = self._choices
        headers = {":status": choices.of(("200", "503", "500", "2xx", "404", ""))}
        kind = choices.byte()
        if kind & 1:
            headers["content-type"] = "text/event-stream" if kind & 2 else "application/json"
        if kind & 4:
            headers[REPORT_HEADER] = "TEXT named_metrics.num_requests_waiting=3"
        if kind & 8:
            headers["content-encoding"] = "gzip"
        return headers

    def around(self) -> codec.Request:
        """What Envoy tells beside response headers."""
        choices = self._choices
        message = pb.ProcessingRequest()
        served, details = choices.of(SERVED), choices.of(DETAILS)
        if served:
            fields = message.metadata_context.filter_metadata[pin.ENVOY_LB].fields
            fields[pin.SERVED].string_value = served
        if details:
            fields = message.attributes[codec.ATTRIBUTES_KEY].fields
            fields["response.code_details"].string_value = details
        return codec.Request(message)
