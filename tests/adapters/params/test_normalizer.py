"""Normalizers: the texts of betterdb where they are safe, another text where they are not, and errors for junk."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from betterdb_agent_cache import normalizer as betterdb
from hypothesis import example, given
from hypothesis import strategies as st

from tests.adapters.params.contents import PNG, image, user
from tests.adapters.params.corpus import prepare
from tiercache import UsageError
from tiercache.adapters.normalizer import (
    BinaryRef,
    compose_normalizer,
    default_normalizer,
    fetch_and_hash,
    hash_base64,
    hash_bytes,
    hash_url,
    passthrough,
)

BASE64: BinaryRef = {"kind": "image", "source": {"type": "base64", "data": PNG}}
URL: BinaryRef = {"kind": "image", "source": {"type": "url", "url": "HTTPS://A.example/x?b=1&a=2"}}
FILE: BinaryRef = {"kind": "document", "source": {"type": "file_id", "file_id": "f1", "provider": "openai"}}
BYTES: BinaryRef = {"kind": "audio", "source": {"type": "bytes", "data": b"x"}}
EACH = [BASE64, URL, FILE, BYTES]


# Base64


@given(st.binary())
def test_hash_base64_returns_the_text_of_betterdb(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    expected = "sha256:" + hashlib.sha256(data).hexdigest()
    for each in (text, text.rstrip("="), f"data:image/png;base64,{text}"):
        assert hash_base64(each) == betterdb.hash_base64(each) == expected
    assert hash_base64(base64.encodebytes(data).decode()) == expected
    assert hash_bytes(data) == betterdb.hash_bytes(data) == expected


@pytest.mark.parametrize(
    "data",
    ["AAA*", "not base64!", "A", "AAAAA", "AAA==", "AAAA=", "A=AA", "AA-_", "é", "data:,hello", "data:text/plain,AAAA",
     "data:image/png;base64,AA-_", "data:a;base64,AAAA;base64,AAAA", "https://a.example/1.png", "\x00AAA"],
)  # fmt: skip
def test_hash_base64_refuses_junk(data: str) -> None:
    with pytest.raises(UsageError):
        hash_base64(data)


@pytest.mark.parametrize("data", [None, b"AAAA", 5, "\ud800"])
def test_hash_base64_refuses_other_types(data: Any) -> None:
    with pytest.raises(UsageError, match="data"):
        hash_base64(data)


def test_hash_base64_keeps_the_parameters_of_a_data_url() -> None:
    plain = hash_base64("data:text/plain;base64,6Q==")
    latin = hash_base64("data:text/plain;charset=latin-1;base64,6Q==")
    assert latin == f"{plain};charset=latin-1"
    assert betterdb.hash_base64("data:text/plain;charset=latin-1;base64,6Q==") == plain


# URLs

SAFE_URLS = [
    "https://a.example/1.png",
    "HTTPS://A.Example/Path/1.PNG?b=2&a=1",
    "https://a.example/?a=1&a=2&b=3",
    "https://a.example/?q=a%20b+c%2Bd&u=https://b.example/x",
    "https://a.example:8443/x;p=1?a=%C3%A9#Part",
    "https://user:pass@A.example/x",
    "gs://bucket/key",
    "/relative?b=1&a=2",
    "",
]
# Each of these leads elsewhere than the URL beside it, and betterdb returns one text for both.
UNSAFE_PAIRS = [
    ("https://a.example/?debug=", "https://a.example/"),
    ("https://a.example/?debug", "https://a.example/"),
    ("https://a.example/?a=1&b=", "https://a.example/?a=1"),
    ("https://a.example/?a=2&a=1", "https://a.example/?a=1&a=2"),
    ("https://Ann:Pa@a.example/", "https://ann:pa@a.example/"),
    ("https://a.example/?a=%FF", "https://a.example/?a=%FE"),
    ("https://a.example/?a=%FF", "https://a.example/?a=%EF%BF%BD"),
    ("https://a.example/a\tb", "https://a.example/ab"),
    (" https://a.example/", "https://a.example/"),
    ("https://a.example/?", "https://a.example/"),
    ("https://a.example/#", "https://a.example/"),
    ("https://a.example/?a=1&&b=1", "https://a.example/?a=1&b=1"),
]


@pytest.mark.parametrize("url", SAFE_URLS)
def test_hash_url_returns_the_text_of_betterdb(url: str) -> None:
    assert hash_url(url) == betterdb.hash_url(url)


@pytest.mark.parametrize(("one", "other"), UNSAFE_PAIRS)
def test_hash_url_tells_urls_apart_that_betterdb_does_not(one: str, other: str) -> None:
    assert betterdb.hash_url(one) == betterdb.hash_url(other)
    assert hash_url(one) != hash_url(other)


def test_hash_url_joins_forms_of_one_url() -> None:
    assert hash_url("https://A.example/?a=1&b=2") == hash_url("HTTPS://a.example/?b=2&a=1")


@pytest.mark.parametrize("url", ["https://[::1/", "https://a\u2100.example/", "http://[x]/"])
def test_hash_url_keeps_a_url_that_cannot_be_parsed(url: str) -> None:
    assert hash_url(url) == f"url:{url}"


@given(st.text(alphabet="aA:/?&=#@%4F;. \t[]+é"))
@example("A://A@A")
def test_hash_url_returns_itself_for_its_own_result(url: str) -> None:
    once = hash_url(url)
    assert once.startswith("url:")
    assert hash_url(once.removeprefix("url:")) == once


@pytest.mark.parametrize("url", [None, b"https://a.example", 5, "\ud800"])
def test_hash_url_refuses_other_types(url: Any) -> None:
    with pytest.raises(UsageError, match="url"):
        hash_url(url)


# Fetching


async def fetched(url: str) -> bytes:
    return url.encode()


@pytest.mark.parametrize("fetch", [fetched, lambda url: url.encode(), lambda url: bytearray(url.encode())])
async def test_fetch_and_hash_calls_the_fetcher_of_the_caller(fetch: Any) -> None:
    assert await fetch_and_hash("https://a.example/x", fetch) == hash_bytes(b"https://a.example/x")


async def test_fetch_and_hash_without_a_fetcher_says_how_to_give_one() -> None:
    normalizer = compose_normalizer({"url": fetch_and_hash})
    with pytest.raises(UsageError, match=r"fetch_and_hash\(url, fetch\).* httpx"):
        await normalizer(URL)


async def test_fetch_and_hash_refuses_text_and_lets_errors_of_the_fetcher_through() -> None:
    with pytest.raises(UsageError, match="the fetcher must return bytes, not str"):
        await fetch_and_hash("x", lambda url: url)  # type: ignore[arg-type, return-value]

    def fails(url: str) -> bytes:
        raise OSError("no route")

    with pytest.raises(OSError, match="no route"):
        await prepare("chat", {"model": "m", "messages": [user(image("https://a.example"))]}, normalizer=by_url(fails))


def by_url(fetch: Callable[[str], bytes]) -> Any:
    return compose_normalizer({"url": lambda url: fetch_and_hash(url, fetch)})


# Composition


@pytest.mark.parametrize("ref", EACH)
async def test_default_normalizer_returns_the_text_of_betterdb(ref: Any) -> None:
    assert passthrough(ref) == betterdb.passthrough(ref) == await default_normalizer(ref)
    assert await default_normalizer(ref) == await betterdb.default_normalizer(ref)


async def later(*arguments: Any) -> str:
    return f"later {arguments[-1]}"


@pytest.mark.parametrize(
    "cfg",
    [
        {"base64": hash_base64, "url": hash_url},
        {"base64": later, "url": later, "file_id": later, "bytes": later},
        {"file_id": lambda file_id, provider: f"{provider}/{file_id}", "bytes": lambda data: repr(data)},
        {"by_kind": {"image": lambda ref: "an image", "audio": later}, "url": hash_url},
        {"by_kind": {}},
        {},
    ],
)
@pytest.mark.parametrize("ref", EACH)
async def test_composed_normalizer_calls_the_functions_that_betterdb_calls(cfg: Any, ref: Any) -> None:
    assert await compose_normalizer(cfg)(ref) == await betterdb.compose_normalizer(cfg)(ref)


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        (5, "cfg must be a mapping, not int"),
        ({"ulr": hash_url}, r"cfg has 'ulr'; the names are base64, url, file_id, bytes, by_kind"),
        ({"url": "x"}, r"cfg\['url'\] must be a function, not str"),
        ({"by_kind": 5}, r"cfg\['by_kind'\] must be a mapping, not int"),
        ({"by_kind": {"video": later}}, r"cfg\['by_kind'\] has 'video'; the names are image, audio, document"),
        ({"by_kind": {"image": 5}}, r"cfg\['by_kind'\]\['image'\] must be a function, not int"),
    ],
)
def test_compose_normalizer_refuses_a_wrong_configuration(cfg: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        compose_normalizer(cfg)


async def test_composed_normalizer_refuses_the_result_of_a_wrong_function() -> None:
    with pytest.raises(UsageError, match="the function url of a normalizer must return a str, not int"):
        await compose_normalizer({"url": lambda url: 5})(URL)  # type: ignore[arg-type, return-value, typeddict-item]


def test_passthrough_refuses_an_unknown_source() -> None:
    with pytest.raises(UsageError, match="type of a source must be one of"):
        passthrough({"kind": "image", "source": {"type": "path"}})  # type: ignore[typeddict-item]
