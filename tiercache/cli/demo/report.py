"""What the reader sees: the introduction, the progress, and the tables of the summary."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from .messages import DemoSettings
from .summary import Summary
from .tally import Outcome
from .units import format_count, format_dollars, format_part, format_seconds

_OUTCOMES: dict[Outcome, tuple[str, str]] = {
    "l1": ("L1 hit", "process memory"),
    "l2": ("L2 hit", "Valkey"),
    "coalesced": ("Single-flight", "joined a load"),
    "loader": ("Load", "model call"),
}
_STYLES: dict[Outcome, str] = {"l1": "green", "l2": "green", "coalesced": "cyan", "loader": "yellow"}
_NEXT_STEPS = (
    ("Your calls", "cache.llm.get_or_load(params, call_llm)", "docs/llm.md"),
    ("Your Valkey", "AgentCache.from_url(url) or .embedded()", "docs/embedded.md"),
    ("Bad days", "what happens when Valkey or a model fails", "docs/resilience.md"),
)


class DemoConsole(Console):
    """A console that says it when its reader has gone, as in ``| head``.

    rich leaves the process at once in that case, past everything that has still to be stopped.
    """

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError."""
        raise BrokenPipeError(errno.EPIPE, "nobody reads the output any more")


class ProgressView:
    """Shows how far the demo is: a bar that moves on a terminal, a line at each quarter elsewhere."""

    def __init__(self, console: Console, total: int, *, quiet: bool = False) -> None:
        self._console = console
        self._total = total
        self._quiet = quiet
        self._quarters = 0
        self._notices: list[str] = []
        self._bar = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.completed:,} of {task.total:,}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            console=console,
            expand=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, state="starting")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the bar on the screen while the body runs; then print what was noticed."""
        with nullcontext() if self._bar.disable else self._bar:
            yield
        for text in self._notices:
            self._console.print(Text(text, style="dim"))

    def show(self, done: int, hits: int, saved: float) -> None:
        """Take the counts so far."""
        state = f"hits {format_part(hits, done)}  saved {format_dollars(saved)}"
        self._bar.update(self._task, completed=done, state=state)
        quarters = 4 * done // self._total
        if self._bar.disable and not self._quiet and quarters > self._quarters:
            self._console.print(f"{done:,} of {self._total:,} requests, {state}", highlight=False)
        self._quarters = quarters

    def notice(self, text: str) -> None:
        """Keep a line until the bar has stopped."""
        self._notices.append(text)


def print_introduction(console: Console, settings: DemoSettings) -> None:
    """Say what is going to happen, and what of it is a stand-in."""
    console.print(Text("tiercache demo", style="bold"))
    latencies = "realistic latencies" if settings.scale == 1 else f"latencies scaled to {settings.scale:g}"
    for line in (
        f"{settings.requests:,} agent requests, Zipf-like: short prompts, long chats, tool use.",
        f"{_plural(settings.workers, 'worker process', 'worker processes')} with "
        f"{_plural(settings.agents, 'agent', 'agents')} each, in front of one private Valkey.",
        f"A local endpoint plays the models: OpenAI wire format, {latencies}.",
        "No request leaves this machine.",
    ):
        console.print(line, style="dim", highlight=False)
    console.print()


def print_summary(console: Console, summary: Summary) -> None:
    """Print the tables, what they rest on, and what to do next."""
    console.print(_outcome_table(summary))
    console.print(_bill_table(summary))
    for line in _notes(summary):
        console.print(Padding(line, (0, 1)), style="dim", highlight=False)
    console.print()
    problems = summary.problems()
    if problems:
        for problem in problems:
            console.print(f"Wrong: {problem}.", style="bold red", highlight=False)
        return
    verdict = f"{summary.answers_checked:,} answers checked against their requests, {summary.answers_wrong} wrong."
    console.print(verdict, style="bold green", highlight=False)
    console.print()
    console.print(_next_steps())


def _outcome_table(summary: Summary) -> Table:
    table = _table("Answered by", "", "Requests", "Share", "p50", "p99", left=2)
    for outcome, (name, what) in _OUTCOMES.items():
        count, latency = summary.counts[outcome], summary.latencies[outcome]
        share = format_part(count, summary.requests)
        times = format_seconds(latency.p50), format_seconds(latency.p99)
        table.add_row(Text(name, style=_STYLES[outcome]), Text(what, style="dim"), f"{count:,}", share, *times)
    table.add_section()
    table.add_row(
        "All", Text(f"{summary.distinct_requests:,} distinct", style="dim"), f"{summary.requests:,}", "", "", ""
    )
    return table


def _bill_table(summary: Summary) -> Table:
    full, spent = summary.without_cache, summary.with_cache
    table = _table("The same workload", "No cache", "tiercache", "Saved", "", left=1)

    def row(name: str, before: float, after: float, written: list[str], style: str = "") -> None:
        table.add_row(name, *written, format_part(before - after, before), style=style)

    for name, before, after in (
        ("Model calls", full.model_calls, spent.model_calls),
        ("Input tokens", full.input_tokens, spent.input_tokens),
        ("Output tokens", full.output_tokens, spent.output_tokens),
    ):
        row(name, before, after, [format_count(before), format_count(after), format_count(before - after)])
    dollars = [format_dollars(amount) for amount in (full.dollars, spent.dollars, full.dollars - spent.dollars)]
    row("Dollars", full.dollars, spent.dollars, dollars, "bold")
    for label, slow, fast in (
        ("Agents waiting *", full.agent_seconds, spent.agent_seconds),
        ("Wall clock *", full.wall_seconds, spent.wall_seconds),
    ):
        row(label, slow, fast, [format_seconds(slow), format_seconds(fast), format_seconds(slow - fast)])
    return table


def _table(*headings: str, left: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=False, padding=(0, 1), header_style="bold", border_style="dim")
    for place, heading in enumerate(headings):
        # Words give way on a narrow terminal, numbers do not.
        table.add_column(heading, justify="left" if place < left else "right", no_wrap=place >= left, overflow="fold")
    return table


def _notes(summary: Summary) -> list[str]:
    settings = summary.settings
    notes = [
        "* Without a cache: modelled, the endpoint's latencies of all requests added up; for the wall clock, shared "
        "evenly by all agents. All other times are measured, as an agent waits for its answer.",
        "Dollars: the tokens of each answer, estimated at 4 characters each, at the list price of its model.",
        f"The endpoint itself counted {summary.endpoint_calls:,} calls. Repeat this run with --seed {settings.seed}.",
    ]
    if settings.scale != 1:
        notes.insert(1, f"The endpoint took {settings.scale:g} of the time that models take (--scale).")
    if summary.answers_unpriced:
        notes.append(f"{summary.answers_unpriced:,} answers had no price and count as nothing.")
    if summary.answers_degraded:
        notes.append(f"{summary.answers_degraded:,} answers came while Valkey could not be asked.")
    return notes


def _plural(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _next_steps() -> Table:
    table = Table.grid(Column(no_wrap=True), Column(overflow="fold"), Column(no_wrap=True), padding=(0, 2, 0, 0))
    for what, call, page in _NEXT_STEPS:
        table.add_row(what, Text(call, style="cyan"), Text(page, style="dim"))
    return table
