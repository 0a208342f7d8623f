"""From what an operator says to a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from ..config.schema import Config, KubernetesConfig, PoolConfig
from .checks import DNS_LABEL, check
from .documents import Documents
from .plan import ENVOY_NAMESPACE, GatewayRef, ManifestError, Mirror, Plan, PoolPlan, Target
from .router_config import generated

MODEL_SERVER_PORT = 8000
"""vLLM's, where nobody says another."""


class Wish(Struct, frozen=True, kw_only=True):
    """What the command line says."""

    target: Target = "envoy-gateway"
    pools: tuple[str, ...] = ()
    services: Mapping[str, tuple[str, int]] = {}
    """(name, port) of the Service that is there already, by pool; "" is the only pool's."""
    gateway: str | None = None
    """`[NAMESPACE/]NAME`."""
    port: int | None = None
    name: str = "extproc"
    namespace: str | None = None
    inline: bool = False
    image: str
    replicas: int = 2
    path_prefixes: tuple[str, ...] = ("/v1",)
    envoy_namespace: str | None = None
    with_gateway: bool = False
    service_monitor: bool = False
    fail_open: bool = False
    otlp_endpoint: str | None = None


def make(wish: Wish, documents: Documents) -> Plan:
    """The plan; raises ManifestError."""
    namespace = wish.namespace or _namespace_of(documents) or "default"
    config, text = _config(wish, documents, namespace)
    gateway = _gateway(wish, documents, namespace)
    plan = Plan(
        target=wish.target,
        name=wish.name,
        namespace=namespace,
        gateway=gateway,
        pools=(),
        config=config,
        config_text=text,
        image=wish.image,
        replicas=wish.replicas,
        path_prefixes=wish.path_prefixes,
        envoy_namespace=wish.envoy_namespace
        or (gateway.namespace if wish.target == "istio" else ENVOY_NAMESPACE),
        with_gateway=wish.with_gateway,
        service_monitor=wish.service_monitor,
        fail_open=wish.fail_open,
        otlp_endpoint=wish.otlp_endpoint,
    )
    _check_services(wish, config)
    pools = [_pool(wish, documents, plan, pool, index) for index, pool in enumerate(config.pools)]
    plan = replace(plan, pools=tuple(pools))
    check(plan)
    return plan


def _config(wish: Wish, documents: Documents, namespace: str) -> tuple[Config, str]:
    """The config and its text: the operator's as it stands, or ours."""
    if documents.config is not None:
        if wish.pools:
            raise ManifestError(f"POOL {wish.pools[0]}: the config names the pools; leave it out")
        if wish.inline:
            raise ManifestError("--inline goes with InferencePools; a config says its pools itself")
        return documents.config, documents.config_text
    if documents.pools is None and not wish.pools:
        raise ManifestError("no pool; name one, or give -f FILE with an InferencePool or a config of ours")
    if wish.inline and documents.pools is None:
        raise ManifestError("--inline goes with -f FILE of an InferencePool")
    return generated(_named_pools(wish), documents.pools, namespace, wish.target, wish.inline)


def _namespace_of(documents: Documents) -> str | None:
    """The first that an InferencePool names."""
    pools = documents.pools.pools if documents.pools else []
    sources = [pool.kubernetes for pool in pools]
    return next((source.namespace for source in sources if source and source.namespace), None)


def _named_pools(wish: Wish) -> list[PoolConfig]:
    """The pools of the command line: each is a Service."""
    made = []
    for name in wish.pools:
        if not DNS_LABEL.fullmatch(name):
            raise ManifestError(f"POOL {name!r}: a Service's name has 1..63 letters a-z, digits and '-'")
        service, _ = _service(wish, name) or (name, 0)
        made.append(PoolConfig(name, kubernetes=KubernetesConfig(service=service)))
    return made


def _service(wish: Wish, pool: str) -> tuple[str, int] | None:
    return wish.services.get(pool) or wish.services.get("")


def _check_services(wish: Wish, config: Config) -> None:
    names = [pool.name for pool in config.pools]
    for name in wish.services:
        if not name and len(names) > 1:
            raise ManifestError(f"--service: say of which pool, as in {names[0]}=NAME:PORT")
        if name and name not in names:
            raise ManifestError(f"--service: {name!r} is no pool; pools: {', '.join(names)}")


def _gateway(wish: Wish, documents: Documents, namespace: str) -> GatewayRef:
    """Of the command line, or else of the InferencePools' annotation."""
    wanted = {attachment.to: attachment.where for attachment in documents.attachments}
    if wish.gateway is not None:
        space, slash, name = wish.gateway.rpartition("/")
        if not name or (slash and not space):
            raise ManifestError(f"--gateway {wish.gateway!r}: allowed: NAME or NAMESPACE/NAME")
        ports = {to.port for to in wanted if to.name == name}
        return GatewayRef(name, space or namespace, wish.port or (ports.pop() if len(ports) == 1 else None))
    if not wanted:
        raise ManifestError(
            "no gateway; give --gateway NAME, or an InferencePool with the attach-to annotation"
        )
    if len(wanted) > 1:
        said = "; ".join(f"{where}: {to.name}, port {to.port}" for to, where in wanted.items())
        raise ManifestError(f"{said}; run once for each gateway and port")
    (to,) = wanted
    return GatewayRef(to.name, namespace, wish.port or to.port)


def _pool(wish: Wish, documents: Documents, plan: Plan, pool: PoolConfig, index: int) -> PoolPlan:
    where = f"$.pools[{index}]"
    if pool.kubernetes is None:
        raise ManifestError(
            f"{where}.endpoints: static; Envoy learns a pod's address from its Service: say kubernetes: "
            "{service: NAME}, {selector: {...}, port: N} or {inference_pool: NAME} instead"
        )
    source = pool.kubernetes
    made = PoolPlan(
        name=pool.name,
        namespace=source.namespace or plan.namespace,
        service=pool.name,
        service_ports=(),
        target_ports=source.ports,
        metrics_port=pool.metrics.port,
        ip_family=source.ip_family,
        mirrors=tuple(_mirrors(plan.config, pool.name)),
    )
    document = _document(documents, source.inference_pool)
    if source.selector is not None:
        made = replace(made, selector=source.selector, own_service=True)
    elif document is not None:
        ports = source.ports or document.ports
        made = replace(made, selector=document.selector, target_ports=ports, own_service=True)
    return _with_service(wish, made, source, where)


def _document(documents: Documents, inference_pool: str | None) -> KubernetesConfig | None:
    """Selector and ports of the InferencePool, as far as a file tells them."""
    pools = documents.pools.pools if documents.pools else []
    return next((pool.kubernetes for pool in pools if pool.name == inference_pool), None)


def _with_service(wish: Wish, pool: PoolPlan, source: KubernetesConfig, where: str) -> PoolPlan:
    """*pool* with its Service: one that is there, or one that we make."""
    given = _service(wish, pool.name)
    if given is None and source.service is not None:
        numbers = [port for port in source.ports if isinstance(port, int)]
        given = source.service, numbers[0] if numbers else MODEL_SERVER_PORT
    if given is not None:
        name, port = given
        targets = pool.target_ports or (port,)
        return replace(pool, service=name, service_ports=(port,), target_ports=targets, own_service=False)
    if pool.selector is None:
        raise ManifestError(
            f"{where}.kubernetes.inference_pool: the pods of {pool.name} are not known here; give its InferencePool "
            "with -f FILE, or --service NAME:PORT of a Service over them"
        )
    if not DNS_LABEL.fullmatch(pool.name) or pool.name == wish.name:
        raise ManifestError(
            f"{where}.name: no Service can be called {pool.name!r} (1..63 letters a-z, digits and '-', not "
            f"{wish.name}); give --service NAME:PORT of one over its pods"
        )
    ports = [p if isinstance(p, int) else MODEL_SERVER_PORT + i for i, p in enumerate(pool.target_ports)]
    return replace(pool, service_ports=tuple(ports))


def _mirrors(config: Config, pool: str) -> Iterator[Mirror]:
    """The mirrors of the models of *pool*, each once: the config's checks saw to it that a name has one Service."""
    named: dict[str, str] = {}
    unnamed: dict[str, str] = {}
    for i, model in enumerate(config.models):
        for j, mirror in enumerate(model.mirrors if model.pool == pool else []):
            if mirror.service is None:
                unnamed.setdefault(mirror.name, f"$.models[{i}].mirrors[{j}].service")
            else:
                named.setdefault(mirror.name, mirror.service)
    for name, path in unnamed.items():
        if name not in named:
            raise ManifestError(f"{path}: missing; the route needs NAME:PORT of the mirror's Service")
    for name, text in named.items():
        service, _, port = text.rpartition(":")
        yield Mirror(name, service, int(port))
