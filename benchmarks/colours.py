"""The colours of the plots, light and dark, and the style sheet that replaces light by dark."""

import re

CARD = ("#fdfdfe", "#0d1118")
INK = ("#1f2329", "#e6edf4")
MUTED = ("#59636f", "#9198a2")
GRID = ("#e3e6eb", "#262c37")
SUBJECT = ("#0b6bcb", "#4c9ffe")
RIVAL = ("#bc4c02", "#f0883f")
PEER = ("#9aa4b1", "#656e7a")
FLOOR = ("#ccd3dc", "#3a424e")
_COLOURS = (CARD, INK, MUTED, GRID, SUBJECT, RIVAL, PEER, FLOOR)


def themed(svg: str) -> str:
    """Return ``svg`` with a dark variant.

    The function turns colours into attributes, which a style sheet may override, and adds such a style sheet.
    """
    svg = re.sub(r'style="([^"]*)"', lambda match: _as_attributes(match[1]), svg)
    changes = [(prop, *colours) for colours in _COLOURS for prop in ("fill", "stroke")]
    rules = "".join(f'[{prop}="{light}"]{{{prop}:{dark}}}' for prop, light, dark in changes)
    sheet = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    start = svg.index(">", svg.index("<svg")) + 1
    return svg[:start] + sheet + svg[start:]


def _as_attributes(style: str) -> str:
    """Return the declarations of ``style`` with colours as attributes: ``fill="#fdfdfe" style="opacity: 1"``."""
    light = {colours[0] for colours in _COLOURS}
    attributes, rest = [], []
    for declaration in style.split("; "):
        name, _, value = declaration.partition(": ")
        if name in ("fill", "stroke") and value in light:
            attributes.append(f'{name}="{value}"')
        else:
            rest.append(declaration)
    return " ".join([*attributes, f'style="{"; ".join(rest)}"'] if rest else attributes)
