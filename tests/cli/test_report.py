"""The terminal output of the demo: complete at 80 columns, plain without a terminal, colourless on request."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tiercache.cli.demo.messages import DemoSettings
from tiercache.cli.demo.report import ProgressView, print_introduction, print_summary
from tiercache.cli.demo.summary import Bill, Latency, Summary
from tiercache.cli.demo.units import format_dollars, format_part, format_seconds
from tiercache.version import install_command

SUMMARY = Summary(
    settings=DemoSettings(requests=100_000, scale=0.25),
    requests=100_000,
    distinct_requests=642,
    counts={"l1": 95_000, "l2": 3_000, "coalesced": 600, "waited": 400, "loader": 1_000},
    latencies={
        "l1": Latency(0.000_072_3, 0.000_188),
        "l2": Latency(0.000_84, 0.012_3),
        "coalesced": Latency(None, None),
        "waited": Latency(1.61, 7.43),
        "loader": Latency(2.21, 11.5),
    },
    with_cache=Bill(1_000, 620_000, 170_000, 2.61, 3_300.0, 29.5),
    without_cache=Bill(100_000, 62_000_000, 17_000_000, 263.4, 260_000.0, 2_080.0),
    endpoint_calls=1_000,
    answers_checked=100_000,
    answers_wrong=0,
    answers_degraded=12,
    answers_unpriced=3,
)


STREAMED = replace(
    SUMMARY,
    settings=replace(SUMMARY.settings, sdk="3.57.0"),
    latencies={**SUMMARY.latencies, "loader": Latency(2.21, 11.5, 0.987)},
)


def render(summary: Summary = SUMMARY, *, width: int = 80, terminal: bool = False, no_color: bool = False) -> str:
    """Return the printed introduction and summary."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, no_color=no_color, _environ={})
    print_introduction(console, summary.settings)
    print_summary(console, summary)
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_report_fits_the_width_without_cut_text(width: int) -> None:
    for summary in (SUMMARY, STREAMED):
        text = render(summary, width=width)
        assert "…" not in text
        # A command stays in one line, so that it can be copied.
        assert max(len(line) for line in text.splitlines() if "pip install" not in line) <= width


@pytest.mark.parametrize(
    "expected",
    [
        "100,000",
        "95,000",
        "95.0 %",
        "72.3 µs",
        "188 µs",
        "Lease wait",
        "1.61 s",
        "7.43 s",
        "62.00 M",
        "$263.40",
        "$2.61",
        "$260.79",
        "72 h 13 min",
        "34 min 40 s",
        "99.0 %",
        "The endpoint waited 0.25 of a model's latency",
        "12 answers came while Valkey was unavailable",
        "3 answers had no price",
        "100,000 answers checked against their requests, 0 wrong",
        "docs/",
    ],
)
def test_report_shows_every_number_of_the_summary(expected: str) -> None:
    assert expected in render()


def test_report_of_streams_names_the_sdk_and_shows_the_first_part() -> None:
    text = render(STREAMED)
    assert "cache.wrap(AsyncOpenAI()), of openai 3.57.0." in text
    assert "pip install" not in text
    assert "First part" in text
    assert "987 ms" in text
    assert "Follower" in text


def test_report_without_an_sdk_names_the_command_that_installs_it() -> None:
    text = render()
    assert f"  {install_command('openai,embedded,cli')}" in text.splitlines()
    assert "First part" not in text


def test_report_is_plain_text_without_a_terminal() -> None:
    assert "\x1b" not in render()


def test_report_has_no_colour_if_colour_is_off() -> None:
    colours = {"\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"}
    assert any(colour in render(terminal=True) for colour in colours)
    assert not any(colour in render(terminal=True, no_color=True) for colour in colours)


def test_report_names_wrong_answers_and_shows_no_success() -> None:
    text = render(replace(SUMMARY, answers_wrong=2))
    assert "Wrong: 2 answers were not the answer" in text
    assert "answers checked against" not in text
    assert "docs/" not in text


def test_progress_prints_a_line_at_each_quarter_without_a_terminal() -> None:
    out = io.StringIO()
    view = ProgressView(Console(file=out, width=80, _environ={}), total=8)
    with view.shown():
        for done in range(9):
            view.show(done, done // 2, done / 4)
        view.notice("Worker 1 wrote to standard error:\nhello")
    assert [line.split(",")[0] for line in out.getvalue().splitlines()] == [
        "2 of 8 requests",
        "4 of 8 requests",
        "6 of 8 requests",
        "8 of 8 requests",
        "Worker 1 wrote to standard error:",
        "hello",
    ]


def test_progress_prints_nothing_if_quiet() -> None:
    out = io.StringIO()
    view = ProgressView(Console(file=out, width=80, _environ={}), total=4, quiet=True)
    with view.shown():
        view.show(4, 1, 0.5)
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (0, "0 s"),
        (0.000_006_04, "6.04 µs"),
        (0.000_099_96, "100.0 µs"),
        (0.012_34, "12.3 ms"),
        (0.5, "500 ms"),
        (1.0, "1.00 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (3725, "62 min 05 s"),
        (10_405, "2 h 53 min"),
        (-0.14, "-140 ms"),
    ],
)
def test_duration_has_the_unit_that_fits_its_size(seconds: float | None, expected: str) -> None:
    assert format_seconds(seconds) == expected


def test_dollars_have_cents_and_small_amounts_four_decimals() -> None:
    assert [format_dollars(d) for d in (0, 0.0744, 1, 1234.5)] == ["$0.00", "$0.0744", "$1.00", "$1,234.50"]


def test_percentage_is_a_dash_if_the_whole_is_zero() -> None:
    assert format_part(0, 0) == "-"
    assert format_part(1, 8) == "12.5 %"


def test_report_names_existing_pages() -> None:
    root = Path(__file__).parents[2]
    pages = re.findall(r"docs/[a-z-]+\.md", render())
    assert len(pages) == 3
    assert all((root / page).is_file() for page in pages)
