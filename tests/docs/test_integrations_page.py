"""The page of the integrations names each extra of an adapter, with the oldest version that pyproject.toml takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import DOCS

PROJECT = tomllib.loads((Path(DOCS).parent / "pyproject.toml").read_text("utf-8"))["project"]
# Extras that install neither a framework nor an SDK.
OTHERS = {"embedded", "cli", "compress", "all"}
ROW = re.compile(r"^\| \[.+?\]\((.+?)\) \| `([\w-]+)` \| ([\w-]+) ([\d.]+) \| ([\d.]+) \|", re.MULTILINE)
ROWS = ROW.findall((DOCS / "integrations.md").read_text("utf-8"))


def test_integrations_page_has_a_row_for_each_extra() -> None:
    assert sorted(extra for _, extra, *_ in ROWS) == sorted(set(PROJECT["optional-dependencies"]) - OTHERS)


@pytest.mark.parametrize(("page", "extra", "package", "oldest", "newest"), ROWS)
def test_integrations_page_has_the_oldest_version_of_an_extra(
    page: str, extra: str, package: str, oldest: str, newest: str
) -> None:
    bounds = {
        re.split(r"[<>=\[]", requirement, maxsplit=1)[0]: requirement
        for requirement in PROJECT["optional-dependencies"][extra]
    }
    assert f">={oldest}" in bounds[package].split(",")[0]
    assert tuple(map(int, newest.split("."))) >= tuple(map(int, oldest.split(".")))
    assert (DOCS / page).is_file()
