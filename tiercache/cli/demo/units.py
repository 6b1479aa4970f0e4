"""The format of numbers for people: seconds, dollars, counts and percentages."""


def format_seconds(seconds: float | None) -> str:
    """Return a duration with about three digits, in the unit that fits its size, or a dash for None."""
    if seconds is None:
        return "-"
    if seconds <= 0:
        return f"-{format_seconds(-seconds)}" if seconds else "0 s"
    if seconds < 1e-3:
        return f"{_three_figures(seconds * 1e6)} µs"
    if seconds < 1:
        return f"{_three_figures(seconds * 1e3)} ms"
    if seconds < 60:
        return f"{_three_figures(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def format_dollars(dollars: float) -> str:
    """Return dollars with cents; amounts below a dollar get four decimals."""
    return f"${dollars:,.2f}" if dollars == 0 or abs(dollars) >= 1 else f"${dollars:.4f}"


def format_count(count: int) -> str:
    """Return a count with thousands separators; from 10 million on in millions."""
    return f"{count / 1e6:,.2f} M" if count >= 10_000_000 else f"{count:,}"


def format_part(part: float, whole: float) -> str:
    """Return ``part`` in percent of ``whole``, or a dash if ``whole`` is 0."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _three_figures(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"
