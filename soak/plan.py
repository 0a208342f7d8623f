"""How long everything goes on."""

from __future__ import annotations

from msgspec import Struct


class Plan(Struct, frozen=True, kw_only=True):
    """Times in seconds, rates a second."""

    churn_s: float
    warm_up_s: float
    """At least as long as one cycle of everything takes."""
    quiet_s: float
    rate: float = 40.0
    """Requests: a good part of one core for the service, Envoys, pods and clients together."""
    churn_every_s: float = 4.0
    """One thing after another goes wrong, and each is over some seconds later."""
    sample_s: float = 10.0
    drain_s: float = 40.0
    """Until nobody is served any more; the longest answers take 30 s."""
    rolls_until_s: float = 0.0
    """New models come and old ones go for so long: what is counted of those that went is kept for a while."""
    envoy_restarts: int = 2
    slack: float = 1.0
    """What may differ, times this."""
    seed: int = 1
    trace: bool = False


QUIET_S = 75.0
"""A pod that went is remembered for 60 s, an answer whose end nobody saw for 10 s; Envoy closes idle connections
to pods after 4 s."""
ROLLED_KEPT_S = 420.0
"""Metric series of models that went are forgotten 5 minutes later; it is looked for them every ten seconds, and the
rest is for a machine that is busy."""


def full(minutes: float, rate: float, *, seed: int, trace: bool) -> Plan:
    """For *minutes* of churn."""
    churn_s = minutes * 60
    return Plan(
        churn_s=churn_s,
        warm_up_s=150.0,
        quiet_s=QUIET_S,
        rate=rate,
        sample_s=min(10.0, churn_s / 18),
        rolls_until_s=max(0.0, churn_s + QUIET_S - ROLLED_KEPT_S),
        seed=seed,
        trace=trace,
    )


def short(*, seed: int, trace: bool) -> Plan:
    """For `make test`: everything once to warm up and once more, at a rate that one core bears."""
    return Plan(
        churn_s=5.0,
        warm_up_s=5.0,
        quiet_s=2.0,
        rate=50.0,
        churn_every_s=0.2,
        sample_s=0.5,
        drain_s=3.0,
        envoy_restarts=1,
        slack=4.0,  # caches fill up yet
        seed=seed,
        trace=trace,
    )
