"""The floor of wrapped clients, which is no cache: OpenAI's SDK itself.

The works of wrapped clients measure it in turns with tiercache, in the same process. No other cache is a peer there:
the caches of LangChain and LiteLLM work above an SDK, inside one framework, and cannot answer the SDK's own calls.
"""

from importlib.util import find_spec

from benchmarks.peers.protocol import Peer

_PACKAGES = ("openai", "httpx2")


class Sdk(Peer):
    title = "the bare SDK"
    is_cache = False
    works = frozenset()

    @classmethod
    def missing(cls) -> str:
        """Return which package is not installed."""
        return next((f"{name} is not installed" for name in _PACKAGES if not find_spec(name)), "")
