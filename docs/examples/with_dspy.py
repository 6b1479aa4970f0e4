"""A program of DSPy that asks each question once, whichever process asks.

python -m pip install ".[dspy]"
"""

import os

import dspy

from tiercache import AgentCache
from tiercache.adapters.dspy import TierCacheDSPy

cache = AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379"))
with cache.sync:
    dspy.cache = TierCacheDSPy(cache, ttl="30d")
    lm = dspy.LM("openai/gpt-4o-mini", api_base=os.environ.get("OPENAI_BASE_URL"))

    for _ in range(2):
        (answer,) = lm("Which river runs through Vienna?")
        print(answer, lm.history[-1]["usage"].get("completion_tokens", 0))
