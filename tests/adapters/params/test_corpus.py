"""prepare_params over the corpus: no two requests share a key, and the key is betterdb's where that key is safe."""

from __future__ import annotations

from collections import Counter, defaultdict
from copy import deepcopy

import pytest

from tests.adapters.params.corpus import APIS, CORPUS, Made, betterdb_key, key_of
from tests.docs.pages import DOCS

SHARED = [made for made in CORPUS if made.is_shared]
SAFE = [made for made in CORPUS if not made.is_shared]


def test_corpus_has_at_least_300_requests_of_each_kind_of_part() -> None:
    assert len(CORPUS) >= 300
    assert all(count >= 80 for count in Counter(made.api for made in CORPUS).values())


@pytest.mark.parametrize("api", APIS)
async def test_prepared_params_of_different_requests_never_share_a_key(api: str) -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for made in CORPUS:
        if made.api == api:
            found[await key_of(api, made.request)].append(made.name)
    assert [names for names in found.values() if len(names) > 1] == []


async def test_prepared_params_have_the_key_of_betterdb_where_it_ignores_nothing() -> None:
    for made in SHARED:
        assert await key_of(made.api, made.request) == await betterdb_key(made.api, made.request), made.name


async def test_prepared_params_have_another_key_than_betterdb_where_it_ignores_something() -> None:
    for made in SAFE:
        key = await key_of(made.api, made.request)
        try:
            assert key != await betterdb_key(made.api, made.request), made.name
        except (AttributeError, KeyError, TypeError, UnicodeEncodeError):
            continue  # betterdb fails on such a part.


async def test_prepared_params_leave_the_request_as_it_is() -> None:
    for made in CORPUS:
        before = deepcopy(made.request)
        await key_of(made.api, made.request)
        assert made.request == before


async def _merged_by_betterdb() -> list[list[Made]]:
    """Return the groups of requests for which betterdb makes one key."""
    found: defaultdict[tuple[str, str], list[Made]] = defaultdict(list)
    for made in CORPUS:
        try:
            found[made.api, await betterdb_key(made.api, made.request)].append(made)
        except (AttributeError, KeyError, TypeError, UnicodeEncodeError):
            continue
    return [group for group in found.values() if len(group) > 1]


async def test_docs_have_the_counts_of_the_corpus() -> None:
    # betterdb's helpers make one key of many different requests: so the corpus notices requests that share a key.
    merged = await _merged_by_betterdb()
    page = (DOCS / "provider-helpers.md").read_text("utf-8")
    assert f"prepares {len(CORPUS)} requests" in page
    assert f"only {len(merged)} keys of {sum(map(len, merged))} of them" in page
    assert f"{len(SHARED)} have betterdb's" in page
