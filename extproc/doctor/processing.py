"""The ext_proc filter as it runs on a route: the filter's settings with what routes say otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from .fields import Json, each_typed, flag, get, record, records, seconds, strings, text, typed

MESSAGE_TIMEOUT_S = 0.2
"""Envoy's default."""


class ExtProcFilter(Struct, frozen=True):
    """In a connection manager's chain."""

    name: str
    disabled: bool
    """Runs only where a route says so."""
    settings: Json


class Processing(Struct, frozen=True):
    """ExternalProcessor messages: https://www.envoyproxy.io/docs/envoy/latest/api-v3 (ext_proc.v3)."""

    filter: str
    settings: Json

    @property
    def cluster(self) -> str:
        """Empty for a `google_grpc` or `http_service`."""
        return text(self.settings, "grpc_service", "envoy_grpc", "cluster_name")

    @property
    def request_body(self) -> str:
        return self._mode("request_body_mode") or "NONE"

    @property
    def response_body(self) -> str:
        return self._mode("response_body_mode") or "NONE"

    @property
    def sends_request_headers(self) -> bool:
        return self._mode("request_header_mode") != "SKIP"

    @property
    def sends_response_headers(self) -> bool:
        return self._mode("response_header_mode") != "SKIP"

    @property
    def sends_response_trailers(self) -> bool:
        return self._mode("response_trailer_mode") == "SEND"

    @property
    def sends_anything(self) -> bool:
        """Istio has a filter that sends nothing, but on the routes of pools."""
        headers = self.sends_request_headers or self.sends_response_headers
        return headers or (self.request_body, self.response_body) != ("NONE", "NONE")

    @property
    def is_duplex(self) -> bool:
        return self.request_body == "FULL_DUPLEX_STREAMED"

    @property
    def message_timeout_s(self) -> float:
        found = seconds(self.settings, "message_timeout")
        return MESSAGE_TIMEOUT_S if found is None else found

    @property
    def allows_mode_override(self) -> bool:
        ahead = flag(self.settings, "send_body_without_waiting_for_header_response")
        return flag(self.settings, "allow_mode_override") and not ahead

    @property
    def shows_answers(self) -> bool:
        """Whether the router gets to see answers' bodies, sent or asked for; tried with 1.40."""
        if not self.sends_response_headers:
            return False
        return self.response_body != "NONE" or (self.allows_mode_override and not self.is_duplex)

    @property
    def fails_open(self) -> bool:
        return flag(self.settings, "failure_mode_allow")

    @property
    def receives(self) -> list[str]:
        """Metadata namespaces that Envoy takes from us."""
        return strings(self.settings, "metadata_options", "receiving_namespaces", "untyped")

    @property
    def forwards(self) -> list[str]:
        """Metadata namespaces that Envoy tells us."""
        return strings(self.settings, "metadata_options", "forwarding_namespaces", "untyped")

    @property
    def response_attributes(self) -> list[str]:
        return strings(self.settings, "response_attributes")

    def _mode(self, name: str) -> str:
        mode = text(self.settings, "processing_mode", name)
        return "" if mode == "DEFAULT" else mode


def filters(http_filters: list[Json], discovered: dict[str, Json], wanted: str) -> list[ExtProcFilter]:
    """The ext_proc filters of a chain whose own name or cluster's contains *wanted*."""
    found = []
    for entry in http_filters:
        name = text(entry, "name")
        config = record(entry, "typed_config") or discovered.get(name, {})
        config = config or record(entry, "config_discovery", "default_config")
        if typed(config) != "ExternalProcessor":
            continue
        cluster = text(config, "grpc_service", "envoy_grpc", "cluster_name")
        if wanted in name or wanted in cluster:
            found.append(ExtProcFilter(name, flag(entry, "disabled"), config))
    return found


def on_route(chain: Sequence[ExtProcFilter], levels: Sequence[Json]) -> Iterator[Processing]:
    """Those that run on a route whose `typed_per_filter_config`s are *levels*, the most specific last."""
    for entry in chain:
        runs, settings = not entry.disabled, entry.settings
        for level in levels:
            said = get(level, entry.name)
            if isinstance(said, dict):
                runs, settings = _said(said, settings)
        processing = Processing(entry.name, settings)
        if runs and processing.sends_anything:
            yield processing


def _said(said: Json, settings: Json) -> tuple[bool, Json]:
    """(runs, settings) after one level's word."""
    if typed(said) == "FilterConfig":
        if flag(said, "disabled"):
            return False, settings
        said = record(said, "config")
    if flag(said, "disabled"):
        return False, settings
    overrides = record(said, "overrides")
    options = {**record(settings, "metadata_options"), **record(overrides, "metadata_options")}
    return True, {**settings, **overrides, "metadata_options": options}


def removed_early(manager: Json) -> list[Json]:
    """Mutations of request headers before a route is chosen, or before ext_proc in the chain."""
    early = each_typed(records(manager, "early_header_mutation_extensions"), "HeaderMutation")
    mutations = [mutation for config in early for mutation in records(config, "mutations")]
    for entry in records(manager, "http_filters"):
        config = record(entry, "typed_config")
        if typed(config) == "ExternalProcessor":
            break
        if typed(config) == "HeaderMutation" and not flag(entry, "disabled"):
            mutations += records(config, "mutations", "request_mutations")
    return mutations
