"""Commands that install tiercache: they name a place that has it, on the pages and in errors."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.request import url2pathname

import pytest
from packaging.requirements import Requirement

from tests.docs.pages import ROOT, pages
from tiercache.version import extra_command, install_command

GIT = {"url": "https://example.org/tiercache.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}}
PAGES = [*pages(), ROOT / "CONTRIBUTING.md", *ROOT.glob("*/README.md")]


def commands_by_name(text: str) -> list[str]:
    """Return the commands that would install tiercache, or another project of that name, from a package index."""
    commands = re.findall(r"pip install[^\n`&;#]*", text)
    return [command for command in commands if re.search(r"""[\s"']tiercache(-agents)?["'\s[]""", command + " ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_installing_commands_of_pages_name_a_path(page: Path) -> None:
    assert not commands_by_name(page.read_text("utf-8"))


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("python -m pip install tiercache", True),
        ('`pip install "tiercache[embedded]"`', True),
        ('pip install -U "tiercache-agents[all]"', True),
        ("pip install tiercache-agents\nimport tiercache", True),
        ('python -m pip install ".[all]" && tiercache demo', False),
        ('python -m pip install ".[all]"\ntiercache demo', False),
        ("pip install ./tiercache", False),
        ('pip install -e ".[all]"', False),
    ],
)
def test_installing_check_notices_a_name(text: str, is_found: bool) -> None:
    assert bool(commands_by_name(text)) == is_found


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, 'python -m pip install "tiercache-agents[cli]"'),
        (
            {"url": "file:///opt/a%20b", "dir_info": {}},
            'python -m pip install "tiercache-agents[cli] @ file:///opt/a%20b"',
        ),
        ({"url": "file:///opt/a%20b", "dir_info": {"editable": True}}, 'python -m pip install -e "/opt/a b[cli]"'),
        (
            {"url": "file:///opt/x-py3-none-any.whl", "archive_info": {}},
            'python -m pip install "tiercache-agents[cli] @ file:///opt/x-py3-none-any.whl"',
        ),
        (GIT, 'python -m pip install "tiercache-agents[cli] @ git+https://example.org/tiercache.git@0123abc"'),
    ],
)
def test_installing_an_extra_names_the_place_of_the_installation(
    origin: dict[str, object] | None, command: str
) -> None:
    assert extra_command("cli", None if origin is None else json.dumps(origin)) == command


def test_installing_command_of_this_installation_names_a_place_that_exists() -> None:
    command = install_command("cli")
    place = re.search(r' @ file://([^"]+)"$| -e "([^"]+)\[cli\]"$', command)
    assert place is not None, command
    assert Path(url2pathname(place[1] or place[2])).exists()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
SDKS = {"openai": "openai", "anthropic": "anthropic", "google": "google-genai"}
# Each extra of a framework, and the package that it is for.
FRAMEWORKS = {
    "google-adk": "google-adk",
    "keyvalue": "py-key-value-aio",
    "langchain": "langchain-core",
    "langgraph": "langgraph-checkpoint",
    "litellm": "litellm",
    "llamaindex": "llama-index-core",
    "dspy": "dspy",
    "openai-agents": "openai-agents",
    "pydantic-ai": "pydantic-ai-slim",
    "fastmcp": "fastmcp",
    "mcp": "mcp",
}


def extras_in(extra: str) -> set[str]:
    """Return the extras that ``extra`` installs, itself included."""
    found = {extra}
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == "tiercache-agents":
            found = found.union(*map(extras_in, requirement.extras))
    return found


def packages_of(extra: str) -> set[str]:
    """Return the names of the packages that ``extra`` installs."""
    requirements = [Requirement(text) for each in extras_in(extra) for text in EXTRAS[each]]
    return {requirement.name for requirement in requirements} - {"tiercache-agents"}


@pytest.mark.parametrize("extra", SDKS)
def test_installing_an_extra_of_an_sdk_brings_compression_and_the_tested_range(extra: str) -> None:
    assert extras_in(extra) == {extra, "compress"}
    (range_of_extra,) = (each.specifier for each in map(Requirement, EXTRAS[extra]) if each.name == SDKS[extra])
    tools = map(Requirement, (text for text in PROJECT["dependency-groups"]["test-tools"]))
    assert [each.specifier for each in tools if each.name == SDKS[extra]] == [range_of_extra]
    try:
        installed = version(SDKS[extra])
    except PackageNotFoundError:
        pytest.skip(f"needs {SDKS[extra]}")
    assert installed in range_of_extra


@pytest.mark.parametrize("extra", FRAMEWORKS)
def test_installing_an_extra_of_a_framework_brings_it(extra: str) -> None:
    assert FRAMEWORKS[extra] in packages_of(extra)


def test_installing_all_brings_no_sdk_and_no_framework() -> None:
    assert extras_in("all") == {"all", *EXTRAS} - {*SDKS, *FRAMEWORKS}
    assert not packages_of("all") & {*SDKS.values(), *FRAMEWORKS.values()}
    # Each extra is explained.
    page = (ROOT / "docs" / "design.md").read_text("utf-8")
    assert all(f"| `{extra}` |" in page for extra in EXTRAS)
