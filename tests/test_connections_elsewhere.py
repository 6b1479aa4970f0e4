"""No phone-home: a process that uses every tier connects to Valkey alone, and imports no library of analytics."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import tiercache
from tests.every_operation import OPERATIONS
from tiercache.testing import ChaosProxy

PACKAGE = Path(tiercache.__file__).parent

_CHILD = """
import asyncio, json, sys
seen = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
        where = arguments[0] if event.startswith("socket.get") else arguments[1]
        seen.append([event, where if isinstance(where, (str, int)) else [str(part) for part in where]])
    elif event in ("urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect", "subprocess.Popen"):
        seen.append([event, str(arguments[0])])
sys.addaudithook(hook)

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, generate_latest
from tests.every_operation import OPERATIONS
from tiercache import AgentCache, TelemetryOptions

async def main():
    registry = CollectorRegistry()
    telemetry = TelemetryOptions(registry=registry, tracer_provider=TracerProvider())
    async with AgentCache.from_url(sys.argv[1], name="agents", telemetry=telemetry) as cache:
        for operation in OPERATIONS.values():
            await operation(cache)
        await asyncio.sleep(1.2)
        generate_latest(registry)
    async with AgentCache.in_memory() as cache:
        for operation in OPERATIONS.values():
            await operation(cache)

asyncio.run(main())
print(json.dumps({"seen": seen, "modules": sorted(sys.modules)}))
"""

# Libraries that send the use of a program to its makers.
_ANALYTICS = {
    "amplitude", "analytics", "bugsnag", "datadog", "ddtrace", "honeybadger", "mixpanel", "newrelic", "posthog",
    "raygun4py", "rollbar", "rudderstack", "scarf", "segment", "sentry_sdk", "snowplow_tracker", "statsig",
}  # fmt: skip
# Modules that open connections, and the only parts of the package that may import them: the download of prices by hand,
# the private server, the name of the host in the marker, the demo, the tools for tests, the path of a file:// URL, and
# the end of a response that a plain client no longer reads.
_NETWORK = {
    "ftplib", "http", "http.client", "httpx", "httpx2", "aiohttp", "requests", "smtplib", "socket", "ssl", "telnetlib",
    "urllib.request", "urllib3", "xmlrpc",
}  # fmt: skip
_MAY_IMPORT = (
    "pricing/update.py",
    "embedded.py",
    "monitor/discovery.py",
    "cli/demo/",
    "testing/",
    "stores/valkey/",
    "version.py",
    "adapters/http/sync_upstream.py",
)


async def _child(url: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    found: dict[str, Any] = json.loads(output)
    return found


@pytest.mark.timeout(120)
async def test_process_connects_to_valkey_alone(proxy: ChaosProxy) -> None:
    valkey = urlsplit(proxy.url)
    host, port = valkey.hostname, str(valkey.port)
    found = await _child(proxy.url)
    connects = [where for event, where in found["seen"] if event == "socket.connect"]
    assert connects
    assert {tuple(where) for where in connects} == {(host, port)}
    # Only names of the host of Valkey are resolved, and no other way out is used.
    others = [(event, where) for event, where in found["seen"] if event != "socket.connect"]
    assert all(event == "socket.getaddrinfo" and where == host for event, where in others), others
    roots = {name.partition(".")[0] for name in found["modules"]}
    assert roots & _ANALYTICS == set()
    assert len(OPERATIONS) > 40


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_package_imports_the_network_only_where_it_must() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        imports = _imports(path)
        assert not imports & _ANALYTICS, name
        if imports & _NETWORK and not name.startswith(_MAY_IMPORT):
            found[name] = imports & _NETWORK
    assert found == {}
