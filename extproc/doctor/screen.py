"""How a diagnosis looks in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .diagnosis import Diagnosis, Finding, Looked
from .finding import Cure, Severity

PLACES = 5
"""Of one finding; all are in the JSON."""
STYLES = {Severity.SERIOUS: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def show(console: Console, told: Diagnosis) -> None:
    """Print all of it."""
    console.print(_title(told), soft_wrap=True)
    console.print(Text(_looked(told.looked_at), style="dim"))
    for finding in told.findings:
        console.print()
        console.print(
            Text.assemble(
                (finding.severity.value, STYLES[finding.severity]),
                ("  " + finding.title, "bold"),
                (f"  ({finding.id})", "dim"),
            )
        )
        console.print(_body(finding))
    console.print()
    for reason, ids in _not_made(told).items():
        line = f"Not looked for ({reason}): {', '.join(ids)}."
        console.print(Text(line, style="yellow"))
    console.print(_verdict(told))


def _title(told: Diagnosis) -> Text:
    router = f"router {told.router}" if told.router else told.no_router
    return Text.assemble((f"Envoy {told.envoy}", "bold"), f"  ·  {router}")


def _looked(at: Looked) -> str:
    parts = [
        _counted(at.listeners, "listener"),
        f"{_counted(at.routes, 'route')} ({at.served_routes} served by ext_proc)",
        f"{_counted(at.clusters, 'cluster')} ({at.pool_clusters} of model servers)",
        _counted(at.ext_proc_filters, "ext_proc filter"),
        _counted(at.stats, "counter"),
    ]
    if at.router_pools:
        endpoints = _counted(at.router_endpoints, "endpoint")
        parts.append(f"{_counted(at.router_pools, 'pool')} with {endpoints} at the router")
    return "Looked at " + ", ".join(parts) + "."


def _body(finding: Finding) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for index, place in enumerate(finding.found[:PLACES]):
        table.add_row("" if index else "  found", f"{place.where}: {place.figure}")
    if len(finding.found) > PLACES:
        table.add_row("", f"… and {len(finding.found) - PLACES} more: see --json")
    table.add_row("  why", finding.why)
    for index, line in enumerate(_lines(finding.cure)):
        table.add_row("" if index else "  cure", line)
    return table


def _lines(cure: Cure) -> Iterator[Text]:
    for owner, lines in (
        ("Envoy Gateway", cure.gateway),
        ("Envoy", cure.envoy),
        ("router", cure.router),
    ):
        for line in lines:
            yield Text.assemble(
                (f"{owner}: ", "dim"), f"{line.kind}  ", (f"{line.path}: {line.value}", "green")
            )
    if cure.words:
        yield Text(cure.words)


def _not_made(told: Diagnosis) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for entry in told.not_made:
        reasons.setdefault(entry.reason, []).append(entry.id)
    return reasons


def _verdict(told: Diagnosis) -> Text:
    made = _counted(told.checks_made, "check")
    if not told.findings:
        return Text(f"No trap found by {made}.", style="bold green")
    parts = [
        f"{told.count(Severity.SERIOUS)} serious",
        _counted(told.count(Severity.WARNING), "warning"),
        _counted(told.count(Severity.NOTE), "note"),
    ]
    style = "bold red" if told.count(Severity.SERIOUS) else "bold"
    return Text(f"{', '.join(parts)}, by {made}.", style=style)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)
