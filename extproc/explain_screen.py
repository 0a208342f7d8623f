"""How an explanation looks in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .explaining import Change, Explanation, counted
from .explaining.explanation import EndpointRow

MAX_ROWS = 40
"""Endpoints in a table: a screenful; all are in the JSON."""
MARKS = {
    "chosen": ("▶ chosen", "bold green"),
    "tied": ("= as good", "green"),
    "fallback": ("fallback", "cyan"),
}
RAISED = " †"


def show(console: Console, told: Explanation, changes: Sequence[Change], notes: Sequence[str]) -> None:
    """Print all of it."""
    console.print(_title(told))
    for line in _targets(told):
        console.print(Text(line), soft_wrap=True)
    console.print()
    console.print(_endpoints(told))
    costs = [row for row in told.endpoints if row.cost is not None]
    if costs:
        console.print(_costs(costs))
        if any(row.cost is not None and row.cost.is_raised for row in costs):
            console.print(Text(f"{RAISED} nothing is known of it: at least the others' median", style="dim"))
    left = len(told.endpoints) - MAX_ROWS
    if left > 0:
        console.print(Text(f" … and {left} more endpoints: see --json", style="dim"))
    console.print()
    console.print(_verdict(told), soft_wrap=True)
    for change in _changes(changes):
        console.print(change, soft_wrap=True)
    for note in notes:
        console.print(Text(f"Note: {note}", style="yellow"), soft_wrap=True)


def _title(told: Explanation) -> Text:
    model = told.model if told.model is not None else "(no model)"
    arrow = f" → {told.target_model}" if told.target_model and told.target_model != told.model else ""
    parts = [f"pool {told.pool}", f"prompt {told.prompt_tokens:,} tokens"]
    if told.profile is not None:
        parts.append(
            f"profile {told.profile}" + (" (the one asked for is unknown)" if told.unknown_profile else "")
        )
    if told.tier is not None:
        parts.append(f"tier {told.tier}")
    return Text.assemble((model + arrow, "bold"), "  ·  " + "  ·  ".join(parts))


def _targets(told: Explanation) -> Iterator[str]:
    if len(told.targets) < 2:
        return
    total = sum(target.share for target in told.targets) or 1
    how = f"by the value of {told.sticky}" if told.sticky else "drawn by weight (see --seed)"
    for target in told.targets:
        labels = "".join(f" {key}={value}" for key, value in sorted(target.labels.items()))
        mark = f"  ◀ {how}" if target.drawn else ""
        if target.drawn and told.target_fallback:
            mark = "  ◀ as the one before it has no ready endpoint"
        yield (
            f"  target {target.model}{labels}: {target.share / total:.1%}, "
            f"{counted(target.endpoints, 'ready endpoint')}{mark}"
        )


def _endpoints(told: Explanation) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("endpoint", no_wrap=True)
    tiered = any(row.tier for row in told.endpoints)
    for name in ["tier"] * tiered:
        table.add_column(name)
    for name in ("ours", "others'", "waiting", "KV", "age", "cached"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, weight in told.weights.items():
        table.add_column(f"{name} × {weight:g}", justify="right")
    table.add_column("total", justify="right")
    table.add_column("")
    for row in told.endpoints[:MAX_ROWS]:
        table.add_row(*_cells(row, told, tiered=tiered), style="" if row.out is None else "dim")
    return table


def _cells(row: EndpointRow, told: Explanation, *, tiered: bool) -> Iterator[str | Text]:
    known = row.metrics_age_s is not None
    yield row.address
    if tiered:
        yield row.tier or ""
    yield str(row.in_flight)
    yield str(row.external) if known else "?"
    yield str(row.queue) if known else "?"
    yield "?" if row.kv_usage is None else f"{row.kv_usage:.0%}"
    yield _age(row)
    yield f"{row.cached_tokens:,}" if row.cached_tokens else ""
    for name in told.weights:
        yield f"{row.scores[name]:.3f}" if name in row.scores else ""
    yield f"{row.total:.3f}" if row.total is not None else ""
    mark, style = MARKS.get(row.verdict, (row.out or "", ""))
    yield Text(mark, style=style)


def _age(row: EndpointRow) -> str:
    if row.metrics_age_s is None:
        return "never"
    return f"{row.metrics_age_s:.2f} s" + ("" if row.fresh else " old")


def _costs(rows: Sequence[EndpointRow]) -> Table:
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
        title="\noutstanding-work: seconds of waiting, summed over all that wait",
        title_justify="left",
    )
    table.add_column("endpoint", no_wrap=True)
    for name in ("own tokens", "ahead", "KV wait", "LoRA wait", "× requests", "× slowness", "= cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:MAX_ROWS]:
        cost = row.cost
        assert cost is not None
        table.add_row(
            row.address,
            f"{cost.new_tokens:,.0f} = {cost.new_tokens * cost.token_s:.3f} s",
            f"{cost.ahead_tokens:,.0f} = {cost.ahead_tokens * cost.token_s:.3f} s",
            f"{cost.kv_wait_s:.3f} s",
            f"{cost.lora_wait_s:.3f} s",
            f"{cost.requests:g}",
            f"{cost.slowness:.2f}",
            f"{cost.cost_s:.3f} s" + (RAISED if cost.is_raised else ""),
        )
    return table


def _verdict(told: Explanation) -> Text:
    if told.refusal is not None:
        return Text(
            f"Refused: {told.refusal.status} {told.refusal.reason}: {told.refusal.message}", style="bold red"
        )
    others = [address for address in told.as_good if address != told.endpoint]
    text = f"{told.endpoint} gets it"
    if told.outcome == "held":
        text = f"It is held until an endpoint has room; {told.endpoint} would get it now if it could not wait"
    if told.picker == "max-score" and others:
        text += f": drawn among {len(told.as_good)} that are as good, with {', '.join(others[:MAX_ROWS])}"
    elif told.picker not in (None, "max-score"):
        text += f": the picker {told.picker} draws, so that others may get the next one (see --seed)"
    if told.fallbacks:
        text += f"; then {', '.join(told.fallbacks)}"
    return Text(text + ".", style="bold")


def _changes(changes: Sequence[Change]) -> Iterator[Text]:
    if not changes:
        return
    yield Text("\nWhat would change it:")
    for address, group in groupby(changes, lambda change: change.endpoint):
        found = list(group)
        reasons = [change.text + (" (a tie)" if change.tie else "") for change in found]
        if found[0].what.startswith("more_"):
            yield Text(f"  {address} gets it no longer once it has {', or '.join(reasons)}")
        else:
            yield Text(f"  {address} would be chosen if {', or if '.join(reasons)}")
