"""Plays Kubernetes' API server over real HTTP, and what can go wrong with it.

`server` is what tests start (`faults` its bad days), `process` the same in a process of its own (`python -m kube_api`),
`talk` a client that asks as ours does.
"""

from __future__ import annotations

from .server import BOUND_S, KubeApi

__all__ = ["BOUND_S", "KubeApi"]
