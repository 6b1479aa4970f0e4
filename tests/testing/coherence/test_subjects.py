"""The subjects: the sampler reads in Valkey the value that a cache has loaded."""

from __future__ import annotations

import pytest
import valkey

from tests.support import MakeCache
from tiercache.testing.coherence.foreign import ForeignClient
from tiercache.testing.coherence.settings import CACHE_NAME
from tiercache.testing.coherence.subject import Subject
from tiercache.testing.coherence.subjects import SUBJECTS


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


@pytest.mark.parametrize(
    "subject", [each for each in SUBJECTS if each.role == "foreign" and each.number == 0], ids=lambda each: each.name
)
async def test_cache_reads_the_subject_that_other_software_sets(
    make_cache: MakeCache, url: str, plain: valkey.Valkey, subject: Subject
) -> None:
    cache = make_cache(name=CACHE_NAME)
    async with ForeignClient(url) as foreign:
        assert await foreign.set(subject, 7)
        assert (await subject.look_up(cache)).value == 7
        key = await subject.valkey_key(CACHE_NAME)
        assert subject.decode(plain.get(key)) == 7
        assert await foreign.delete(subject)
        assert not plain.exists(key)


async def test_other_software_does_not_count_what_the_server_refused(url: str, plain: valkey.Valkey) -> None:
    subject = next(each for each in SUBJECTS if each.role == "foreign")
    plain.config_set("maxmemory", 1)
    try:
        async with ForeignClient(url) as foreign:
            assert not await foreign.set(subject, 7)
    finally:
        plain.config_set("maxmemory", 0)
