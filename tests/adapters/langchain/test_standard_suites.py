"""The published test suites of LangChain for caches and stores, sync and async."""

from __future__ import annotations

import pytest

from tests.adapters.installed import needs

needs("langchain", "langchain_tests")

from langchain_tests.integration_tests import (
    AsyncCacheTestSuite,
    BaseStoreAsyncTests,
    BaseStoreSyncTests,
    SyncCacheTestSuite,
)

from tiercache import AgentCache
from tiercache.adapters.langchain import TierCacheByteStore, TierCacheLLMCache

VALUES = (b"\x00\xff", b"", b"three")


class TestSyncCache(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, plain_cache: AgentCache) -> TierCacheLLMCache:
        return TierCacheLLMCache(plain_cache)


class TestAsyncCache(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, cache: AgentCache) -> TierCacheLLMCache:
        return TierCacheLLMCache(cache)


class TestSyncCacheInMemory(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, plain_memory: AgentCache) -> TierCacheLLMCache:
        return TierCacheLLMCache(plain_memory)


class TestAsyncCacheInMemory(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, memory: AgentCache) -> TierCacheLLMCache:
        return TierCacheLLMCache(memory)


class TestSyncStore(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, plain_cache: AgentCache) -> TierCacheByteStore:
        return TierCacheByteStore(plain_cache)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return VALUES


class TestAsyncStore(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self, cache: AgentCache) -> TierCacheByteStore:
        return TierCacheByteStore(cache)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return VALUES


class TestSyncStoreInMemory(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, plain_memory: AgentCache) -> TierCacheByteStore:
        return TierCacheByteStore(plain_memory)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return VALUES


class TestAsyncStoreInMemory(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self, memory: AgentCache) -> TierCacheByteStore:
        return TierCacheByteStore(memory)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return VALUES
