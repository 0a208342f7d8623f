"""What the headers and the body of a request say before anything is decided."""

from __future__ import annotations

import gzip
import json
import random

import pytest

from extproc import intake
from extproc.budget import BodyBudget
from extproc.config import parse_config
from extproc.config.schema import Limits
from extproc.errors import Reason, Rejected
from extproc.fleet import Fleet
from extproc.intake import Reading
from extproc.jsonscan import ModelFound
from extproc.protocol.messages import BodyMode
from extproc.request import Api, api_of
from extproc.router import Router

CHAT = {":method": "POST", ":path": "/v1/chat/completions"}
LIMITS = Limits(max_body_bytes=1000)


def refusal(error: pytest.ExceptionInfo[Rejected]) -> tuple[Reason, str]:
    return error.value.reason, error.value.message


# -- which API a path belongs to ----------------------------------------------------------------------------

REQUIRED = ["chat/completions", "completions", "embeddings", "responses", "messages", "messages/count_tokens"]


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1", "/team/a/openai/deployments/x", ""])
@pytest.mark.parametrize("suffix", ["", "/", "?api-version=1", "/?a=b/v1/models", "#fragment"])
@pytest.mark.parametrize("end", REQUIRED)
def test_apis_that_need_a_model_are_known_by_the_end_of_their_path(
    prefix: str, end: str, suffix: str
) -> None:
    assert api_of("POST", f"{prefix}/{end}{suffix}") is Api.MODEL_REQUIRED


# The POST routes of vLLM that say which model they mean: docs/serving/online_serving/README.md of 2026 lists them.
VLLM_ROUTES = {
    "/v1/chat/completions": Api.MODEL_REQUIRED,
    "/v1/completions": Api.MODEL_REQUIRED,
    "/v1/embeddings": Api.MODEL_REQUIRED,
    "/v1/responses": Api.MODEL_REQUIRED,
    "/v1/messages": Api.MODEL_REQUIRED,
    "/v1/messages/count_tokens": Api.MODEL_REQUIRED,
    "/v1/chat/completions/batch": Api.MODEL_OPTIONAL,
    "/v1/chat/completions/render": Api.MODEL_OPTIONAL,
    "/v1/completions/render": Api.MODEL_OPTIONAL,
    "/inference/v1/generate": Api.MODEL_OPTIONAL,
    "/invocations": Api.MODEL_OPTIONAL,
    "/tokenize": Api.MODEL_OPTIONAL,
    "/detokenize": Api.MODEL_OPTIONAL,
    "/pooling": Api.MODEL_OPTIONAL,
    "/classify": Api.MODEL_OPTIONAL,
    "/score": Api.MODEL_OPTIONAL,
    "/v1/score": Api.MODEL_OPTIONAL,
    "/generative_scoring": Api.MODEL_OPTIONAL,
    "/rerank": Api.MODEL_OPTIONAL,
    "/v1/rerank": Api.MODEL_OPTIONAL,
    "/v2/rerank": Api.MODEL_OPTIONAL,
    "/v2/embed": Api.MODEL_OPTIONAL,
    "/v1/audio/transcriptions": Api.FORM,
    "/v1/audio/translations": Api.FORM,
}


@pytest.mark.parametrize(("path", "api"), VLLM_ROUTES.items())
def test_the_routes_of_vllm_are_known(path: str, api: Api) -> None:
    assert api_of("POST", path) is api


@pytest.mark.parametrize("api", [*VLLM_ROUTES.items(), ("/v1/models/x", Api.MODEL_LIST)], ids=str)
def test_a_path_is_read_as_the_model_server_reads_it_percent_encoding_undone_once(
    api: tuple[str, Api],
) -> None:
    path, known = api
    method = "GET" if known is Api.MODEL_LIST else "POST"
    for encoded in (
        f"{path[:-3]}%{ord(path[-3]):02x}{path[-2:]}",
        path[0] + path[1:].replace("/", "%2f"),
        path[0] + path[1:].replace("/", "%2F") + "%2F?a=%3f",
        "".join(f"%{ord(each):02X}" for each in path),
    ):
        assert api_of(method, encoded) is known
    assert api_of("POST", path.replace(path[-1], f"%25{ord(path[-1]):02x}")) is Api.OTHER


@pytest.mark.parametrize("path", ["/v1/moderations", "/v1/images/generations", "/v1/audio/speech"])
def test_other_apis_of_openai_are_known_too(path: str) -> None:
    assert api_of("POST", path) is Api.MODEL_OPTIONAL


@pytest.mark.parametrize(
    ("method", "path", "api"),
    [
        ("GET", "/v1/models", Api.MODEL_LIST),
        ("GET", "/v1/models/", Api.MODEL_LIST),
        ("GET", "/openai/v1/models?limit=1", Api.MODEL_LIST),
        ("GET", "/v1/models/meta-llama/Llama-3", Api.MODEL_LIST),
        ("DELETE", "/v1/models/x", Api.OTHER),
        ("HEAD", "/v1/models", Api.OTHER),
        ("GET", "/v1/modelsx", Api.OTHER),
        ("GET", "/version", Api.OTHER),
        ("POST", "/v1/mycompletions", Api.OTHER),
        ("POST", "/v1/responses/resp_1/cancel", Api.OTHER),
        ("POST", "/v1/files?x=/v1/completions", Api.OTHER),
        ("POST", "/v1/completions%3Fx", Api.OTHER),
        ("POST", "/v1/completions%23x", Api.OTHER),
        ("POST", "/a%3Fb%23c/v1/completions", Api.MODEL_REQUIRED),
        ("POST", "", Api.OTHER),
    ],
)
def test_other_paths(method: str, path: str, api: Api) -> None:
    assert api_of(method, path) is api


# -- how a body is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content_type", "kind"),
    [
        ("/v1/chat/completions", None, Reading.MODEL_REQUIRED),
        ("/v1/chat/completions", "text/plain", Reading.MODEL_REQUIRED),
        ("/tokenize", None, Reading.MODEL),
        ("/anything", "application/json", Reading.MODEL),
        ("/anything", "Application/JSON ; charset=utf-8", Reading.MODEL),
        ("/anything", "application/vnd.api+json", Reading.MODEL),
        ("/anything", "application/jsonl", Reading.OPAQUE),
        ("/v1/audio/transcriptions", "multipart/form-data; boundary=x", Reading.FORM),
        ("/v1/audio/translations", None, Reading.FORM),
        ("/v1/files", "multipart/form-data; boundary=x", Reading.OPAQUE),
        ("/anything", None, Reading.OPAQUE),
    ],
)
def test_what_the_body_is_to_us(path: str, content_type: str | None, kind: Reading) -> None:
    headers = {":method": "POST", ":path": path}
    if content_type is not None:
        headers["content-type"] = content_type
    assert intake.reading(headers, BodyMode.BUFFERED, LIMITS) is kind


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.GRPC])
def test_a_mode_that_picks_before_the_body_is_read_is_refused(mode: BodyMode) -> None:
    with pytest.raises(Rejected) as error:
        intake.reading(CHAT, mode, LIMITS)
    assert refusal(error) == (
        Reason.UNSUPPORTED_BODY_MODE,
        f"Envoy sends {mode.name} request bodies and can't be told otherwise, so that the endpoint is picked "
        "before the body is read; configure BUFFERED or FULL_DUPLEX_STREAMED.",
    )


@pytest.mark.parametrize("length", ["1001", "9" * 19, "9" * 20, "9" * 5000])
def test_a_body_that_announces_to_be_too_large_is_refused_at_once(length: str) -> None:
    with pytest.raises(Rejected) as error:
        intake.reading({**CHAT, "content-length": length}, BodyMode.BUFFERED, LIMITS)
    assert refusal(error) == (Reason.BODY_TOO_LARGE, "The body is larger than 1000 bytes.")


@pytest.mark.parametrize("length", ["1000", "0", "", "-1", "1e9", "5, 5", "²"])
def test_a_length_that_is_small_enough_or_says_nothing_is_no_ground_to_refuse(length: str) -> None:
    headers = {**CHAT, "content-length": length}
    assert intake.reading(headers, BodyMode.BUFFERED, LIMITS) is Reading.MODEL_REQUIRED


@pytest.mark.parametrize("encoding", ["compress", "gzip, br", "identity, gzip", "x"])
def test_an_encoding_that_we_cannot_read_is_refused(encoding: str) -> None:
    with pytest.raises(Rejected) as error:
        intake.reading({**CHAT, "content-encoding": encoding}, BodyMode.BUFFERED, LIMITS)
    assert refusal(error) == (
        Reason.UNSUPPORTED_ENCODING,
        "The body's content-encoding cannot be read; send it plain, or in one of gzip, deflate, br, zstd.",
    )


@pytest.mark.parametrize(
    "encoding", ["identity", " Identity ", "", "gzip", "X-GZip", "deflate", "br", "zstd"]
)
def test_a_body_in_an_encoding_that_we_know_is_read(encoding: str) -> None:
    headers = {**CHAT, "content-encoding": encoding}
    assert intake.reading(headers, BodyMode.BUFFERED, LIMITS) is Reading.MODEL_REQUIRED


def test_an_encoding_of_what_is_not_ours_to_read_does_not_matter() -> None:
    headers = {":method": "POST", ":path": "/upload", "content-encoding": "compress"}
    assert intake.reading(headers, BodyMode.BUFFERED, LIMITS) is Reading.OPAQUE


# -- requests without a body --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", REQUIRED)
def test_a_post_without_a_body_is_refused_where_a_model_is_needed(end: str) -> None:
    with pytest.raises(Rejected) as error:
        intake.check_bodiless({":method": "POST", ":path": f"/v1/{end}"})
    assert refusal(error) == (Reason.INVALID_JSON, "The body is empty; a JSON object is expected.")


@pytest.mark.parametrize("end", ["transcriptions", "translations"])
def test_a_post_without_a_body_is_refused_where_a_form_is_needed(end: str) -> None:
    with pytest.raises(Rejected) as error:
        intake.check_bodiless({":method": "POST", ":path": f"/v1/audio/{end}"})
    assert refusal(error) == (Reason.INVALID_JSON, "The body is empty; multipart/form-data is expected.")


@pytest.mark.parametrize(
    "headers",
    [
        {":method": "GET", ":path": "/v1/chat/completions"},
        {":method": "OPTIONS", ":path": "/v1/chat/completions"},
        {":method": "POST", ":path": "/tokenize"},
        {":method": "POST", ":path": "/reset_prefix_cache"},
        {":method": "POST", ":path": "/v1/responses", "upgrade": "websocket"},
        {},
    ],
)
def test_other_requests_need_no_body(headers: dict[str, str]) -> None:
    intake.check_bodiless(headers)


# -- the model ----------------------------------------------------------------------------------------------

SPANS = ((10, 15),)


@pytest.mark.parametrize("kind", [Reading.MODEL, Reading.MODEL_REQUIRED])
def test_the_last_of_several_models_counts(kind: Reading) -> None:
    found = ModelFound(True, (*SPANS, (20, 25)), ("a", "b"))
    assert intake.model(kind, found) == "b"


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (ModelFound(True), "the top-level `model` is missing"),
        (ModelFound(False), "the top-level `model` is missing"),
        (ModelFound(True, SPANS, (None,)), "`model` is not a string"),
        (ModelFound(True, (*SPANS, (20, 25)), ("a", None)), "`model` is not a string"),
    ],
)
def test_a_body_that_names_no_model_is_refused_only_where_one_is_needed(found: ModelFound, what: str) -> None:
    assert intake.model(Reading.MODEL, found) is None
    with pytest.raises(Rejected) as error:
        intake.model(Reading.MODEL_REQUIRED, found)
    assert refusal(error) == (Reason.MISSING_MODEL, f"The request names no model: {what}.")
    assert error.value.param == "model"


@pytest.mark.parametrize("kind", [Reading.MODEL, Reading.MODEL_REQUIRED])
def test_a_name_that_nobody_can_have_does_not_exist(kind: Reading) -> None:
    with pytest.raises(Rejected) as error:
        intake.model(kind, ModelFound(True, SPANS, (None,), unusable=True))
    assert refusal(error)[0] is Reason.MODEL_NOT_FOUND
    assert error.value.param == "model"


# -- the body that goes on ----------------------------------------------------------------------------------

NAMED = b'{"model":"qwq","n":1.0}'
TWICE = b'{"model":"a","model":"t"}'


def rewritten(
    content: bytes, target: str | None, *, encoding: str | None = None, encoded_bodies: str = "keep"
) -> bytes | None:
    """What goes on of a body whose content is *content*; None: what came."""
    headers = CHAT if encoding is None else {**CHAT, "content-encoding": encoding}
    sent = gzip.compress(content) if encoding == "gzip" else content
    reader = intake.reader(Reading.MODEL_REQUIRED, headers, lambda more, size: None)
    assert reader is not None
    assert list(reader.feed(sent)) == []
    with pytest.raises(StopIteration) as end:
        next(reader.finish())
    pieces = intake.rewritten(reader, [sent], end.value.value, target, headers, encoded_bodies)
    return None if pieces is None else b"".join(pieces)


@pytest.mark.parametrize("encoding", [None, "identity", "gzip"])
@pytest.mark.parametrize("encoded_bodies", ["keep", "decode"])
def test_a_body_whose_model_changes_goes_on_plain_with_every_other_byte(
    encoding: str | None, encoded_bodies: str
) -> None:
    how = {"encoding": encoding, "encoded_bodies": encoded_bodies}
    assert rewritten(NAMED, "qwq-32b", **how) == b'{"model":"qwq-32b","n":1.0}'
    assert rewritten(TWICE, "t", **how) == b'{"model":"t","model":"t"}'


@pytest.mark.parametrize("target", [None, "qwq"])
def test_a_body_whose_model_stays_goes_on_as_it_came_or_decoded_where_that_is_wanted(
    target: str | None,
) -> None:
    assert rewritten(NAMED, target) is None
    assert rewritten(NAMED, target, encoded_bodies="decode") is None
    assert rewritten(NAMED, target, encoding="identity", encoded_bodies="decode") is None
    assert rewritten(NAMED, target, encoding="gzip") is None
    assert rewritten(NAMED, target, encoding="gzip", encoded_bodies="decode") == NAMED


# -- /v1/models ---------------------------------------------------------------------------------------------


def router(extra: str = "") -> Router:
    text = f"""
pools: [{{name: pool, endpoints: ["127.0.0.1:8001"]}}]
models: [{{name: qwq, pool: pool, targets: [{{model: qwq-32b}}]}}, {{name: org/llama, pool: pool}}]
{extra}
"""
    fleet = Fleet()
    router = fleet.apply(parse_config(text.encode()), loaded_at=1_700_000_000.9)
    for _, endpoint in fleet.endpoints():
        endpoint.models = ("served", "qwq")
    return router


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models", ""),
        ("/v1/models/", ""),
        ("/openai/v1/models?limit=2", ""),
        ("/v1/models/qwq", "qwq"),
        ("/v1/models/qwq/", "qwq"),
        ("/v1/models/org/llama", "org/llama"),
        ("/proxy/v1/models/v1/models/qwq", "qwq"),
        ("/v1/models/org%2Fllama?x=y", "org/llama"),
        ("/v1/models/caf%C3%A9", "café"),
        ("/v1/models/%ff", "�"),
        ("/v1/model", None),
    ],
)
def test_which_model_is_asked_about(path: str, name: str | None) -> None:
    headers = {":method": "GET", ":path": path}
    assert intake.model_list(headers, router().config) == name
    assert intake.model_list({**headers, ":method": "POST"}, router().config) is None
    assert intake.model_list({**headers, ":method": "HEAD"}, router().config) is None


def test_model_lists_are_left_to_the_endpoints_where_the_config_says_so() -> None:
    config = router("list_models: forward").config
    assert intake.model_list({":method": "GET", ":path": "/v1/models"}, config) is None


def model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "extproc"}


def test_the_list_has_what_is_listed_and_what_the_default_pool_serves_each_once() -> None:
    expected = {"object": "list", "data": [model("qwq"), model("org/llama"), model("served")]}
    assert json.loads(intake.list_models(router(), "")) == expected


def test_without_a_default_pool_the_list_has_only_what_is_listed() -> None:
    expected = {"object": "list", "data": [model("qwq"), model("org/llama")]}
    assert json.loads(intake.list_models(router("default_pool: null"), "")) == expected


@pytest.mark.parametrize("name", ["qwq", "org/llama", "served"])
def test_one_model_is_described_alone(name: str) -> None:
    assert json.loads(intake.list_models(router(), name)) == model(name)


def test_a_model_that_is_not_there_does_not_exist() -> None:
    with pytest.raises(Rejected) as error:
        intake.list_models(router(), "qwq-32b")
    assert refusal(error) == (Reason.MODEL_NOT_FOUND, "The model `qwq-32b` does not exist.")


@pytest.mark.parametrize("name", ["a" * 257, "a\nb", "\0"])
def test_a_name_that_nobody_can_have_is_not_repeated(name: str) -> None:
    """It would go into the answer and into a log line."""
    with pytest.raises(Rejected) as error:
        intake.list_models(router(), name)
    assert error.value.reason is Reason.MODEL_NOT_FOUND
    assert name not in error.value.message


# -- the budget ---------------------------------------------------------------------------------------------


def test_the_budget_is_used_to_its_last_byte_and_no_further() -> None:
    budget = BodyBudget()
    budget.take(60, 100)
    budget.take(40, 100)
    with pytest.raises(Rejected) as error:
        budget.take(1, 100)
    assert refusal(error) == (Reason.OVERLOADED, "Too many request bodies are held at once.")
    assert error.value.headers()[-1] == ("retry-after", "1")
    assert budget.held_bytes == 100
    budget.give_back(60)
    budget.take(60, 100)
    assert budget.held_bytes == 100


def test_the_budget_ends_where_it_began_whatever_was_taken() -> None:
    budget, rng = BodyBudget(), random.Random(1)
    held: list[int] = []
    for _ in range(200):
        size = rng.randrange(50)
        try:
            budget.take(size, 200)
        except Rejected:
            budget.give_back(held.pop(rng.randrange(len(held))))
        else:
            held.append(size)
        assert budget.held_bytes == sum(held) <= 200


# -- what only headers say ----------------------------------------------------------------------------------


def named(value: str | None, trusted: str = "[X-Gateway-Model-Name]") -> str | None:
    config = parse_config(
        f'pools: [{{name: p, endpoints: ["127.0.0.1:1"]}}]\ntrusted_headers: {trusted}'.encode()
    )
    headers = CHAT if value is None else {**CHAT, "x-gateway-model-name": value}
    return intake.named_model("x-gateway-model-name", headers, config)


@pytest.mark.parametrize(
    ("value", "model"), [(None, None), ("", None), ("qwq", "qwq"), ("caf\xc3\xa9", "café"), ("a, b", "a, b")]
)
def test_a_trusted_header_names_the_model_in_utf_8(value: str | None, model: str | None) -> None:
    assert named(value) == model


def test_a_header_that_is_not_trusted_names_nothing() -> None:
    assert named("qwq", trusted="[x-other]") is None


@pytest.mark.parametrize("value", ["a\x01b", "\xff", "x" * 257])
def test_a_name_that_is_not_usable_is_refused_in_a_header_too(value: str) -> None:
    with pytest.raises(Rejected) as error:
        named(value)
    assert error.value.reason is Reason.MODEL_NOT_FOUND


@pytest.mark.parametrize(("length", "size"), [("17", 17), ("", 0), ("x", 0), ("9" * 20, 0)])
def test_how_large_a_body_announces_to_be(length: str, size: int) -> None:
    assert intake.announced_bytes({"content-length": length}) == size
    assert intake.announced_bytes({}) == 0


@pytest.mark.parametrize(
    ("status", "went_on"), [(200, True), (404, True), (408, False), (413, False), (500, False), (503, False)]
)
def test_what_an_answer_before_the_body_says_of_the_request(status: int, went_on: bool) -> None:
    assert intake.went_on(status) is went_on
