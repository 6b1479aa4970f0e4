"""The terminal output: the introduction, the progress, and the tables of the summary."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from ...version import install_command
from .messages import DemoSettings
from .summary import Summary
from .tally import Outcome
from .units import format_count, format_dollars, format_part, format_seconds

_OUTCOMES: dict[Outcome, tuple[str, str]] = {
    "l1": ("L1 hit", "process memory"),
    "l2": ("L2 hit", "Valkey"),
    "coalesced": ("Single-flight", "joined a load"),
    "waited": ("Lease wait", "other process"),
    "loader": ("Load", "model call"),
}
_STREAM_OUTCOMES: dict[Outcome, tuple[str, str]] = {
    "l1": ("L1 hit", "process memory"),
    "l2": ("L2 hit", "Valkey"),
    "coalesced": ("Follower", "live stream"),
    "waited": ("Lease wait", "other process"),
    "loader": ("Load", "model call"),
}
_STYLES: dict[Outcome, str] = {
    "l1": "green",
    "l2": "green",
    "coalesced": "cyan",
    "waited": "cyan",
    "loader": "yellow",
}
_NEXT_STEPS = (
    ("Your client", "client = cache.wrap(AsyncOpenAI())", "docs/clients.md"),
    ("Your Valkey", "AgentCache.from_url(url) or .embedded()", "docs/embedded.md"),
    ("Outages", "when Valkey or a model fails", "docs/resilience.md"),
)


class DemoConsole(Console):
    """A console that raises an error when its reader has gone, as in ``| head``.

    rich would end the process at once, without stopping the children and the server.
    """

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError."""
        raise BrokenPipeError(errno.EPIPE, "the reader of the output has gone")


class ProgressView:
    """Shows the progress of the demo: a moving bar on a terminal, elsewhere a line at each quarter."""

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
        """Keep the bar on the screen while the body runs; then print the notices."""
        with nullcontext() if self._bar.disable else self._bar:
            yield
        for text in self._notices:
            self._console.print(Text(text, style="dim"))

    def show(self, done: int, hits: int, saved: float) -> None:
        """Show the counts up to now."""
        state = f"hits {format_part(hits, done)}  saved {format_dollars(saved)}"
        self._bar.update(self._task, completed=done, state=state)
        quarters = 4 * done // self._total
        if self._bar.disable and not self._quiet and quarters > self._quarters:
            self._console.print(f"{done:,} of {self._total:,} requests, {state}", highlight=False)
        self._quarters = quarters

    def notice(self, text: str) -> None:
        """Keep ``text`` and print it when the bar has stopped."""
        self._notices.append(text)


def print_introduction(console: Console, settings: DemoSettings) -> None:
    """Print the plan of the demo, and which of its parts are stand-ins."""
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
    for line in _ways(settings):
        # A command stays in one line, so that it can be copied.
        console.print(line, highlight=False, markup=False, soft_wrap=line.startswith(" "))
    console.print()


def _ways(settings: DemoSettings) -> tuple[str, ...]:
    """Return how the agents call the models."""
    if settings.sdk is not None:
        return (f"The agents stream: client = cache.wrap(AsyncOpenAI()), of openai {settings.sdk}.",)
    return (
        "The agents load whole answers: cache.llm.get_or_load(params, call_llm).",
        "To see them stream through OpenAI's client, install it first:",
        f"  {install_command('openai,embedded,cli')}",
    )


def print_summary(console: Console, summary: Summary) -> None:
    """Print the tables, the notes, the verdict and the next steps."""
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
    streams = summary.settings.sdk is not None
    times = ("First part", "p50", "p99") if streams else ("p50", "p99")
    table = _table("Answered by", "", "Requests", "Share", *times, left=2)
    for outcome, (name, source) in (_STREAM_OUTCOMES if streams else _OUTCOMES).items():
        count, latency = summary.counts[outcome], summary.latencies[outcome]
        share = format_part(count, summary.requests)
        seconds = [latency.first_p50] * streams + [latency.p50, latency.p99]
        row = Text(name, style=_STYLES[outcome]), Text(source, style="dim"), f"{count:,}", share
        table.add_row(*row, *map(format_seconds, seconds))
    table.add_section()
    table.add_row("All", Text(f"{summary.distinct_requests:,} distinct", style="dim"), f"{summary.requests:,}")
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
    table = Table(box=box.SIMPLE_HEAD, expand=False, padding=(0, 0, 0, 1), header_style="bold", border_style="dim")
    for place, heading in enumerate(headings):
        # On a narrow terminal the columns of words shrink, and the columns of numbers do not.
        table.add_column(heading, justify="left" if place < left else "right", no_wrap=place >= left, overflow="fold")
    return table


def _notes(summary: Summary) -> list[str]:
    settings = summary.settings
    notes = [
        "* The times without a cache are modelled: the sum of the endpoint's latencies of all requests; for the wall "
        "clock, this sum and the agents' pauses, divided by the number of agents. All other times are measured while "
        "an agent waits for its answer. "
        + (
            "A follower joined a stream that another agent, in any process, had started."
            if settings.sdk is not None
            else "A lease wait is a wait for a load in another process."
        ),
        "Dollars: the list price of the model, for estimated tokens of 4 characters each.",
        f"The endpoint itself counted {summary.endpoint_calls:,} calls, for {summary.distinct_requests:,} distinct "
        f"requests. Repeat this run with --seed {settings.seed}.",
    ]
    if settings.scale != 1:
        notes.insert(1, f"The endpoint waited {settings.scale:g} of a model's latency (--scale).")
    if summary.answers_unpriced:
        notes.append(f"{summary.answers_unpriced:,} answers had no price and count as 0 dollars.")
    if summary.answers_degraded:
        notes.append(f"{summary.answers_degraded:,} answers came while Valkey was unavailable.")
    return notes


def _plural(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _next_steps() -> Table:
    table = Table.grid(Column(no_wrap=True), Column(overflow="fold"), Column(no_wrap=True), padding=(0, 2, 0, 0))
    for topic, call, page in _NEXT_STEPS:
        table.add_row(topic, Text(call, style="cyan"), Text(page, style="dim"))
    return table
