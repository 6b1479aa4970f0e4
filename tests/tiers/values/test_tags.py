"""The tags before the bytes of an entry."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache.engine.entries.rules import UndecodableError
from tiercache.tiers.values.tags import HEAD_BYTES, MAX_LIST_BYTES, encode_tag, join_tags, split_tags

TAGS = st.lists(st.text(min_size=1, max_size=30).filter(lambda tag: tag.isprintable()), unique=True, max_size=8)
LLM = b'{"response":"x","model":"m","storedAt":1}'
FORMS = [LLM, b"tc:zstd:AAAA", b"j1", b"stext", b"b\x00]}\n", b"z\x28\xb5", b'j["t]"]']


@pytest.mark.parametrize("data", FORMS)
@given(tags=TAGS)
def test_tags_come_back_with_the_entry(data: bytes, tags: list[str]) -> None:
    joined = join_tags(data, tags)
    assert split_tags(joined) == (data, tuple(tags))
    # The first bytes are enough to read the tags, and to find each.
    head = joined[:HEAD_BYTES]
    assert split_tags(head).tags == tuple(tags)
    assert all(encode_tag(tag) in head for tag in tags)


@given(tags=TAGS)
def test_tagged_llm_entry_is_the_same_json_object_with_one_more_field(tags: list[str]) -> None:
    fields = json.loads(join_tags(LLM, tags))
    assert fields.pop("tcTags", []) == tags
    assert fields == json.loads(LLM)


@pytest.mark.parametrize("data", FORMS)
def test_tags_beyond_the_bound_are_not_listed(data: bytes) -> None:
    tags = [f"{n:0100}" for n in range(100)]
    joined = join_tags(data, tags)
    assert len(joined) < len(data) + 20
    assert split_tags(joined) == (data, None)
    assert join_tags(data, None) == joined
    assert len(join_tags(data, tags[:70])) < len(data) + MAX_LIST_BYTES + 20


@pytest.mark.parametrize(
    "data",
    [
        b"t[",
        b"t[1]\nj1",
        b't["a"\nj1',
        b't["a"]j1',
        b"tnul\nj1",
        b"tnullj1",
        b't["\xff"]\nj1',
        b"t[[]]\nj1",
        b"tc:tags:",
        b"tc:tags:[",
        b'tc:tags:["a"]',
        b'{"tcTags":',
        b'{"tcTags":[],',
        b'{"tcTags":["a"]}',
        b'{"tcTags":"a","response":"x"}',
        b't["' + b"x" * 2 * MAX_LIST_BYTES + b'"]\nj1',
    ],
)
def test_damaged_header_is_undecodable(data: bytes) -> None:
    if data != b'{"tcTags":[],':
        with pytest.raises(UndecodableError):
            split_tags(data)
    else:
        assert split_tags(data) == (b"{", ())


@given(st.binary(max_size=60), st.sampled_from([b"t[", b"tn", b"tc:tags:", b'{"tcTags":', b""]))
def test_any_bytes_are_split_or_refused(rest: bytes, opening: bytes) -> None:
    try:
        data, tags = split_tags(opening + rest)
    except UndecodableError:
        return
    assert tags is None or all(isinstance(tag, str) for tag in tags)
    assert data == opening + rest or len(data) < len(opening + rest)
