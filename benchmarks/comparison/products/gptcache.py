"""GPTCache: its adapter of OpenAI with the settings of its quick start, exact matches in a map of the process.

GPTCache installs the packages that it misses by pip, into the Python whose pip comes first in the PATH. Here pip has no
index, so that a missing package is an error.
"""

import os
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from benchmarks.comparison.product import Answers, Question, Reply, Setting, reply_of

os.environ["PIP_NO_INDEX"] = "true"
_NEEDED = ("gptcache", "openai", "cachetools", "requests", "tiktoken")


class GptCache(Answers):
    title = "GPTCache"
    distributions = ("gptcache", "openai")
    uses_store = False
    has_ttl = False

    @classmethod
    def missing(cls) -> str:
        absent = [name for name in _NEEDED if find_spec(name) is None]
        if absent:
            return f"no module named {', '.join(absent)}"
        found = version("openai")
        return "" if found.startswith("0.") else f"needs openai before 1.0, and openai {found} is installed"

    async def open(self, setting: Setting) -> None:
        from gptcache import Cache, Config
        from gptcache.adapter import openai
        from gptcache.manager import manager_factory

        self._folder = tempfile.TemporaryDirectory()
        self._chat = openai.ChatCompletion
        self._cache = Cache()
        # Its counter of tokens downloads a table.
        config = Config(enable_token_counter=False)
        self._cache.init(data_manager=manager_factory("map", data_dir=self._folder.name), config=config)
        self._url = setting.model_url

    async def close(self) -> None:
        self._cache.data_manager.close()
        self._cache.data_manager.data_path = "/dev/null"  # The library writes the map once more when Python ends.
        self._folder.cleanup()

    async def ask(self, question: Question, *, base: str | None = None) -> Reply:
        return reply_of(_plain(await self._chat.acreate(**self._call(question, base))))

    def ask_plain(self, question: Question) -> Reply:
        return reply_of(_plain(self._chat.create(**self._call(question))))

    async def stream(self, question: Question) -> list[str]:
        stream = await self._chat.acreate(**self._call(question), stream=True)
        return [str(event) async for event in stream]

    async def statistics(self) -> dict[str, int]:
        return {"hits": self._cache.report.hint_cache_count}

    def _call(self, question: Question, base: str | None = None) -> dict[str, Any]:
        call = {name: value for name, value in question.items() if name != "extra_body"}
        call |= question.get("extra_body", {})  # openai 0.28 sends every keyword.
        return {**call, "api_base": base or self._url, "api_key": "none", "cache_obj": self._cache}


def _plain(completion: Any) -> dict[str, Any]:
    return completion.to_dict_recursive() if hasattr(completion, "to_dict_recursive") else dict(completion)
