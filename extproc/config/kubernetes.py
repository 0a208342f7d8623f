"""What `endpoints` and `kubernetes` of a pool must agree on, and the words that Kubernetes allows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import UNSET

from ..errors import Fault
from ..label_syntax import is_key, is_value
from .schema import KubernetesConfig, PoolConfig

MAX_PORT = 65535
MAX_PORTS = 8
"""As many target ports as an InferencePool may have."""

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
"""RFC 1123, as names of most objects; https://kubernetes.io/docs/concepts/overview/working-with-objects/names/."""
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
"""Names of namespaces and Services."""
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
"""An IANA_SVC_NAME: not only digits."""


def check_source(pool: PoolConfig, path: str) -> Iterator[Fault]:
    """Where the endpoints of *pool* come from: the file or the cluster."""
    given = pool.endpoints is not UNSET
    if pool.kubernetes is None:
        if not given:
            yield Fault(f"{path}.endpoints", "missing; give either endpoints or kubernetes")
        return
    if given:
        yield Fault(f"{path}.kubernetes", "give either endpoints or kubernetes, not both")
    yield from _source(pool.kubernetes, f"{path}.kubernetes")


def _source(source: KubernetesConfig, path: str) -> Iterator[Fault]:
    kinds = {
        "inference_pool": source.inference_pool,
        "service": source.service,
        "selector": source.selector,
    }
    given = [name for name, value in kinds.items() if value is not None]
    if len(given) != 1:
        what = f"{', '.join(given)} exclude each other" if given else "nothing to discover by"
        yield Fault(path, f"{what}; give exactly one of inference_pool, service, selector")
    yield from _name(source.inference_pool, _SUBDOMAIN, 253, f"{path}.inference_pool")
    yield from _name(source.service, _LABEL, 63, f"{path}.service")
    yield from _name(source.namespace, _LABEL, 63, f"{path}.namespace")
    if source.selector is not None:
        yield from _selector(source, f"{path}.selector")
    yield from _ports(source, f"{path}.port")
    for index, label in enumerate(source.node_labels):
        yield from _label_key(label, f"{path}.node_labels[{index}]")


def _name(name: str | None, pattern: re.Pattern[str], longest: int, path: str) -> Iterator[Fault]:
    if name is not None and (len(name) > longest or not pattern.match(name)):
        dots = ", '.'" if pattern is _SUBDOMAIN else ""
        yield Fault(
            path,
            f"{name!r} is no name in Kubernetes; allowed: 1..{longest} lower case letters, digits{dots} and '-', "
            "with a letter or digit at both ends",
        )


def _selector(source: KubernetesConfig, path: str) -> Iterator[Fault]:
    assert source.selector is not None
    if not source.selector:
        yield Fault(path, "empty; it would select every pod of the namespace, name at least one label")
    for key, value in source.selector.items():
        yield from _label_key(key, path)
        if not is_value(value):
            yield Fault(f"{path}.{key}", f"{value!r} is no label value of at most 63 letters, digits, '-_.'")
    if source.port is None:
        yield Fault(f"{path.removesuffix('.selector')}.port", "missing; a selector needs the pods' port")


def _label_key(key: str, path: str) -> Iterator[Fault]:
    if not is_key(key):
        yield Fault(path, f"{key!r} is no label key; expected [prefix/]name, the name of 1..63 characters")


def _ports(source: KubernetesConfig, path: str) -> Iterator[Fault]:
    if source.port == []:
        yield Fault(path, "empty; leave it out, or name at least one port")
    if len(source.ports) > MAX_PORTS:
        yield Fault(path, f"{len(source.ports)} ports; at most {MAX_PORTS} are allowed")
    if len(set(source.ports)) < len(source.ports):
        yield Fault(path, "a port stands twice")
    for port in source.ports:
        if isinstance(port, int):
            if not 1 <= port <= MAX_PORT:
                yield Fault(path, f"{port} is no port; allowed: 1..{MAX_PORT}")
        elif len(port) > 15 or not _PORT_NAME.match(port):
            yield Fault(path, f"{port!r} is no port's name; allowed: 1..15 lower case letters, digits, '-'")
