"""The API objects that speak of models: InferenceModel, InferenceModelRewrite, InferenceObjective.

Only the fields that we read.  What a schema requires has a default here: an object without it is judged, and told so
in its status.  Sources: the CRDs of gateway-api-inference-extension v0.1 (v1alpha1), v0.5 and v1.3 (v1alpha2), and of
llm-d.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

from .objects import Lenient, Nullable, ObjectMeta

X_GROUP = "inference.networking.x-k8s.io"
LLM_D_GROUP = "llm-d.ai"
POOL_GROUPS = frozenset(("inference.networking.k8s.io", X_GROUP, ""))
"""Of an InferencePool, as a `poolRef` may write it."""
ACCEPTED = "Accepted"
"""The type of the condition that we write, and its reason where it is true."""
Key = tuple[str, str, str, str]
"""(plural, group, namespace, name)."""


class Condition(Lenient, frozen=True, gc=False):
    """One of an object's `status.conditions` (metav1.Condition)."""

    type: str
    status: str
    """`True`, `False` or `Unknown`."""
    reason: Nullable[str] = ""
    """CamelCase."""
    message: Nullable[str] = ""
    observed_generation: int | None = None
    last_transition_time: str | None = None
    """RFC 3339; of one that is yet to be written None."""


class Status(Lenient, frozen=True):
    conditions: Nullable[tuple[Condition, ...]] = ()


class PoolRef(Lenient, frozen=True):
    """The InferencePool, of the object's own namespace, that an object speaks of."""

    name: Nullable[str] = ""
    group: Nullable[str] = X_GROUP
    kind: Nullable[str] = "InferencePool"


class Identity(Struct, frozen=True, gc=False):
    """Which object, and which state of it."""

    group: str
    version: str
    plural: str
    namespace: str
    name: str
    uid: str
    resource_version: str

    @property
    def key(self) -> Key:
        return self.plural, self.group, self.namespace, self.name


class ModelObject(Lenient, frozen=True):
    """What the three kinds have in common."""

    KIND: ClassVar[str]
    PLURAL: ClassVar[str]

    metadata: ObjectMeta
    status: Nullable[Status] = Status()
    api_version: Nullable[str] = f"{X_GROUP}/v1alpha2"

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    @property
    def identity(self) -> Identity:
        meta = self.metadata
        return Identity(
            self.group,
            self.version,
            self.PLURAL,
            meta.namespace,
            meta.name,
            meta.uid,
            meta.resource_version,
        )

    @property
    def key(self) -> Key:
        """Tells it from all others."""
        return self.PLURAL, self.group, self.metadata.namespace, self.metadata.name

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those that it has now."""
        return self.status.conditions

    def __str__(self) -> str:
        return f"{self.KIND} {self.metadata.namespace}/{self.metadata.name}"


class TargetModel(Lenient, frozen=True):
    """One version of a model."""

    name: Nullable[str] = ""
    weight: int | None = None
    """1..1,000,000; v1alpha1 has 0 too."""


class InferenceModelSpec(Lenient, frozen=True):
    model_name: Nullable[str] = ""
    criticality: str | None = None
    target_models: Nullable[tuple[TargetModel, ...]] = ()
    pool_ref: Nullable[PoolRef] = PoolRef()


class InferenceModel(ModelObject, frozen=True):
    """A model that clients may ask for, and what serves it (v1alpha1, v1alpha2)."""

    KIND: ClassVar[str] = "InferenceModel"
    PLURAL: ClassVar[str] = "inferencemodels"

    spec: Nullable[InferenceModelSpec] = InferenceModelSpec()


class ModelMatch(Lenient, frozen=True):
    value: Nullable[str] = ""
    type: Nullable[str] = "Exact"


class Match(Lenient, frozen=True):
    model: Nullable[ModelMatch] = ModelMatch()


class RewriteTarget(Lenient, frozen=True):
    model_rewrite: Nullable[str] = ""
    weight: int | None = None


class RewriteRule(Lenient, frozen=True):
    matches: Nullable[tuple[Match, ...]] = ()
    """Any of these; none: every model."""
    targets: Nullable[tuple[RewriteTarget, ...]] = ()


class InferenceModelRewriteSpec(Lenient, frozen=True):
    pool_ref: Nullable[PoolRef] = PoolRef()
    rules: Nullable[tuple[RewriteRule, ...]] = ()


class InferenceModelRewrite(ModelObject, frozen=True):
    """Which models serve requests for other models (v1alpha2 of both groups)."""

    KIND: ClassVar[str] = "InferenceModelRewrite"
    PLURAL: ClassVar[str] = "inferencemodelrewrites"

    spec: Nullable[InferenceModelRewriteSpec] = InferenceModelRewriteSpec()


class InferenceObjectiveSpec(Lenient, frozen=True):
    pool_ref: Nullable[PoolRef] = PoolRef()
    priority: int | None = None


class InferenceObjective(ModelObject, frozen=True):
    """A priority that requests can ask for by its name (v1alpha2 of both groups)."""

    KIND: ClassVar[str] = "InferenceObjective"
    PLURAL: ClassVar[str] = "inferenceobjectives"

    spec: Nullable[InferenceObjectiveSpec] = InferenceObjectiveSpec()


class Verdict(Struct, frozen=True, gc=False):
    """What to tell an object's author in its `status`."""

    object: Identity
    generation: int
    """Of the object, as judged."""
    condition: Condition
    current: tuple[Condition, ...] = ()
    """The conditions that the object has now."""
