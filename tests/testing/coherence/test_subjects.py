"""The subjects: the sampler reads in Valkey the value that a cache has loaded."""

from __future__ import annotations

import pytest
import valkey

from tests.support import MakeCache
from tiercache.testing.coherence.subjects import SUBJECTS, Subject


@pytest.mark.parametrize("tags", [(), ("t",)])
@pytest.mark.parametrize("subject", [each for each in SUBJECTS if each.tier != "session"], ids=lambda each: each.name)
async def test_subject_decodes_its_entry_in_valkey(
    make_cache: MakeCache, plain: valkey.Valkey, subject: Subject, tags: tuple[str, ...]
) -> None:
    """Also an entry with tags, which stand before its value."""
    cache = make_cache(name="test")
    value = subject.value_of(7, 3)

    async def load() -> int:
        return value

    assert (await subject.get_or_load(cache, load, tags=tags)).value == value
    await cache.flush_writes()
    data = plain.get(await subject.valkey_key("test"))
    assert subject.decode(data) == value
    assert subject.split(value) == ((7, 3) if subject.role == "mixed" else (7, 0))
    assert subject.decode(b"tc:lease:0123:1") is None
