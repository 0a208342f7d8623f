"""Envoy's `/config_dump?include_eds`: static and dynamic resources as one, still plain JSON."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, field

from .fields import Json, get, record, records, text, typed


class ConfigDump(Struct, frozen=True):
    """The resources in force; those that warm up or drain are left out."""

    listeners: list[Json] = field(default_factory=list)
    clusters: list[Json] = field(default_factory=list)
    routes: list[Json] = field(default_factory=list)
    filters: dict[str, Json] = field(default_factory=dict)
    """Discovered by ECDS: `typed_config` by name."""
    localities: dict[str, list[Json]] = field(default_factory=dict)
    """`endpoints` of the load assignment, by cluster."""
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """(resource, why) of updates that Envoy did not take: it runs on with what it had before."""


def read(page: Json) -> ConfigDump:
    dump = ConfigDump()
    for section in records(page, "configs"):
        match typed(section):
            case "ListenersConfigDump":
                dump.listeners.extend(_listeners(section))
            case "ClustersConfigDump":
                entries = records(section, "static_clusters") + records(section, "dynamic_active_clusters")
                dump.clusters.extend(record(entry, "cluster") for entry in entries)
            case "RoutesConfigDump":
                entries = records(section, "static_route_configs") + records(section, "dynamic_route_configs")
                dump.routes.extend(record(entry, "route_config") for entry in entries)
            case "EcdsConfigDump":
                for entry in records(section, "ecds_filters"):
                    found = record(entry, "ecds_filter")
                    dump.filters[text(found, "name")] = record(found, "typed_config")
            case "EndpointsConfigDump":
                dump.localities.update(_localities(section))
        dump.rejected.extend(_rejected(section))
    return dump


def _listeners(section: Json) -> Iterator[Json]:
    for entry in records(section, "static_listeners"):
        yield record(entry, "listener")
    for entry in records(section, "dynamic_listeners"):
        listener = record(entry, "active_state", "listener")
        if listener:
            yield {"name": text(entry, "name"), **listener}


def _localities(section: Json) -> Iterator[tuple[str, list[Json]]]:
    kinds = ("static_endpoint_configs", "dynamic_endpoint_configs")
    for entry in (entry for kind in kinds for entry in records(section, kind)):
        assignment = record(entry, "endpoint_config")
        yield text(assignment, "cluster_name"), records(assignment, "endpoints")


def _rejected(section: Json) -> Iterator[tuple[str, str]]:
    for value in section.values():
        if not isinstance(value, list):
            continue
        for entry in value:
            if details := text(entry, "error_state", "details"):
                yield _name(entry), details


def _name(entry: Json) -> str:
    """What an entry of a dump is called: itself, what it holds, or what it would have held."""
    wrapped = ("cluster", "route_config", "ecds_filter", "endpoint_config")
    holders = [entry, record(entry, "error_state", "failed_configuration")]
    holders += [record(entry, key) for key in wrapped]
    names = (text(holder, key) for holder in holders for key in ("name", "cluster_name"))
    return next((name for name in names if name), str(get(entry, "version_info") or "unnamed"))
