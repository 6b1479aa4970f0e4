"""TierCacheLiteLLM behind real calls of LiteLLM: which calls share an answer, whole answers, Valkey away."""

from __future__ import annotations

import asyncio
import json
import warnings
from concurrent.futures import wait
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("litellm", "fastapi", "soundfile")

from pydantic import BaseModel

from tests.adapters.litellm import threads
from tests.adapters.mortal_server import MortalServer
from tests.providers import ProviderServer, Script, ToolCall
from tests.support import entry_keys, until
from tiercache import AgentCache, ResilienceOptions, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    from tiercache.adapters.litellm import TierCacheLiteLLM

# LiteLLM and pydantic warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
QUICK = ResilienceOptions(l2_timeout=0.2, breaker_pause=0.05)
PACKAGE = str(Path(litellm.__file__).parent)
ANSWER = "Answer 1: part 1 part 2 part 3 part 4"
MESSAGES = [{"role": "user", "content": "Which river?"}]


def use(cache: AgentCache, **options: Any) -> None:
    """Let LiteLLM use ``cache``."""
    litellm.cache = TierCacheLiteLLM(cache, **options)


async def ask(plain: bool = False, **options: Any) -> Any:
    """Ask the model, and wait until LiteLLM has stored the answer."""
    request = {"model": "gpt-4o-mini", "messages": MESSAGES, **options}
    answer = litellm.completion(**request) if plain else await litellm.acompletion(**request)
    if options.get("stream"):
        chunks = list(answer) if plain else [chunk async for chunk in answer]
        answer = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    await stored()
    return answer


async def stored() -> None:
    """Wait until LiteLLM's tasks and threads have stored their answers."""
    await asyncio.to_thread(wait, list(threads.futures))
    await GLOBAL_LOGGING_WORKER.flush()
    await until(lambda: not any(is_of_litellm(task) for task in asyncio.all_tasks()), 20)


def is_of_litellm(task: Any) -> bool:
    """Return whether a task is one of LiteLLM's, and not the worker that waits for more."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(PACKAGE) and code.co_name != "_worker_loop"


@pytest.fixture(params=[False, True], ids=["async", "plain"])
def plain_call(request: pytest.FixtureRequest) -> bool:
    """Return whether the test uses LiteLLM's plain functions."""
    return bool(request.param)


async def test_equal_call_makes_one_request(cache: AgentCache, provider: ProviderServer, plain_call: bool) -> None:
    use(cache)
    first, second = [await ask(plain_call) for _ in range(2)]
    assert first.choices[0].message.content == second.choices[0].message.content == ANSWER
    assert first.usage == second.usage
    assert (first.id, first.model, first.created) == (second.id, second.model, second.created)
    assert provider.call_count == 1


async def test_equal_stream_makes_one_request(cache: AgentCache, provider: ProviderServer, plain_call: bool) -> None:
    use(cache)
    assert [await ask(plain_call, stream=True) for _ in range(2)] == [ANSWER] * 2
    assert provider.call_count == 1


async def test_answer_is_shared_between_processes_and_kinds_of_calls(
    replicas: tuple[AgentCache, AgentCache], provider: ProviderServer
) -> None:
    for each in replicas:
        use(each)
        for plain in (False, True):
            assert (await ask(plain)).choices[0].message.content == ANSWER
    assert provider.call_count == 1


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_cache_in_memory_serves_one_kind_of_calls(provider: ProviderServer, plain: bool) -> None:
    cache = AgentCache.in_memory()
    use(cache)
    for _ in range(2):
        await ask(plain)
    assert provider.call_count == 1
    await ask(not plain)
    assert provider.call_count == 2
    cache.sync.close() if plain else await cache.aclose()


# Keys


class City(BaseModel):
    name: str


def town() -> type[BaseModel]:
    class City(BaseModel):
        name: str
        size: int

    return City


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


SYSTEM = {"role": "system", "content": "Be brief."}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "another model": {"model": "gpt-4o"},
    "another question": {"messages": [{"role": "user", "content": "Which lake?"}]},
    "system prompt": {"messages": [SYSTEM, *MESSAGES]},
    "another system prompt": {"messages": [{**SYSTEM, "content": "Be polite."}, *MESSAGES]},
    "conversation": {"messages": [*MESSAGES, {"role": "assistant", "content": "The Danube."}, *MESSAGES]},
    "name of the user": {"messages": [{**MESSAGES[0], "name": "ann"}]},
    "image": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}]
    },
    "other image": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/c"}}]}]
    },
    "temperature 0": {"temperature": 0},
    "temperature 1": {"temperature": 1},
    "top_p": {"top_p": 0.5},
    "most tokens": {"max_tokens": 10},
    "most completion tokens": {"max_completion_tokens": 10},
    "seed": {"seed": 1},
    "stop": {"stop": ["a"]},
    "answers": {"n": 2},
    "log probabilities": {"logprobs": True},
    "bias": {"logit_bias": {"1": 1}},
    "tool": {"tools": [tool("a")]},
    "another tool": {"tools": [tool("b")]},
    "choice of the tool": {"tools": [tool("a")], "tool_choice": "required"},
    "parallel tools": {"tools": [tool("a")], "parallel_tool_calls": False},
    "output schema": {"response_format": City},
    "another schema of one name": {"response_format": town()},
    "any JSON": {"response_format": {"type": "json_object"}},
    "body": {"extra_body": {"top_k": 1}},
    "another body": {"extra_body": {"top_k": 2}},
    "parameter of a provider": {"min_p": 0.1},
    "headers": {"extra_headers": {"x-a": "1"}},
    "organization": {"organization": "org-a"},
    "another organization": {"organization": "org-b"},
    "version": {"api_version": "2"},
    "effort": {"reasoning_effort": "low", "allowed_openai_params": ["reasoning_effort"]},
    "namespace": {"cache": {"namespace": "a"}},
    "stream": {"stream": True},
}


async def test_calls_that_differ_share_no_answer(cache: AgentCache, provider: ProviderServer) -> None:
    use(cache)
    answers = []
    for _ in range(2):
        for name, options in REQUESTS.items():
            answer = await ask(**options)
            answers.append((name, answer if isinstance(answer, str) else answer.choices[0].message.content))
    count = len(REQUESTS)
    assert answers[:count] == answers[count:]
    assert provider.call_count == count


async def test_calls_to_different_servers_share_no_answer(
    cache: AgentCache, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(cache)
    with ProviderServer() as other:
        for _ in range(2):
            await ask()
            await ask(api_base=other.openai_url)
        assert (provider.call_count, other.call_count) == (1, 1)
        monkeypatch.setenv("OPENAI_API_BASE", other.openai_url)
        await ask()
        assert (provider.call_count, other.call_count) == (1, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"user": "ann"},
        {"metadata": {"trace": "a"}},
        {"timeout": 30},
        {"num_retries": 1},
        {"api_key": "other"},
        {"messages": tuple(MESSAGES)},
        {"temperature": None},
    ],
    ids=str,
)
async def test_argument_that_cannot_change_the_answer_is_not_in_the_key(
    cache: AgentCache, provider: ProviderServer, options: dict[str, Any]
) -> None:
    use(cache)
    await ask()
    await ask(**options)
    assert provider.call_count == 1


@pytest.mark.parametrize(
    "options",
    [{"store": True}, {"web_search_options": {}, "store": True}, {"tools": [{"type": "web_search_preview"}]}],
    ids=str,
)
async def test_call_that_depends_on_a_state_or_a_hosted_tool_is_not_cached(
    cache: AgentCache, provider: ProviderServer, options: dict[str, Any]
) -> None:
    use(cache)
    for _ in range(2):
        await ask(**options)
    assert provider.call_count == 2


async def test_argument_without_json_is_not_cached(
    cache: AgentCache, provider: ProviderServer, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    use(cache)
    for _ in range(2):
        await ask(extra_body={"at": datetime(2026, 1, 1)})
    assert provider.call_count == 2
    assert not entry_keys(plain)
    assert "has no key, and is not cached" in caplog.text


async def test_long_conversation_is_cached(cache: AgentCache, provider: ProviderServer) -> None:
    use(cache)
    messages = [{"role": role, "content": f"{number}"} for number in range(10) for role in ("user", "assistant")]
    for _ in range(2):
        await ask(messages=[*messages, *MESSAGES])
    assert provider.call_count == 1


# Whole answers


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (Script(tool_calls=(ToolCall(name="a", arguments={"q": ["é", 1]}),)), {"tools": [tool("a")]}),
        (Script(finish="refusal", parts=("No.",)), {}),
        (Script(), {"n": 3}),
        (Script(parts=("é\n\0 end",)), {"logprobs": True}),
    ],
    ids=["tool calls", "refusal", "several", "text"],
)
async def test_answer_comes_back_whole(
    cache: AgentCache, provider: ProviderServer, script: Script, options: dict[str, Any], plain_call: bool
) -> None:
    use(cache)
    provider.script = script
    first, second = [(await ask(plain_call, **options)).model_dump() for _ in range(2)]
    assert first == second
    assert provider.call_count == 1


@pytest.mark.parametrize("finish", ["length", "content_filter"])
@pytest.mark.parametrize("stream", [False, True])
async def test_answer_that_is_cut_off_is_not_stored(
    cache: AgentCache, provider: ProviderServer, finish: str, stream: bool, plain_call: bool
) -> None:
    use(cache)
    provider.script = Script(finish=finish)
    for _ in range(2):
        await ask(plain_call, stream=stream)
    assert provider.call_count == 2


async def test_error_is_not_stored(cache: AgentCache, provider: ProviderServer) -> None:
    use(cache)
    provider.enqueue(Script(status=400, message="wrong"))
    with pytest.raises(litellm.BadRequestError):
        await ask()
    assert (await ask()).choices[0].message.content
    assert provider.call_count == 2


async def test_stream_that_its_reader_leaves_is_not_stored(cache: AgentCache, provider: ProviderServer) -> None:
    use(cache)
    stream = await litellm.acompletion(model="gpt-4o-mini", messages=MESSAGES, stream=True)
    async for _ in stream:
        break
    await stream.aclose()
    assert await ask(stream=True) == "Answer 2: part 1 part 2 part 3 part 4"


async def embed(texts: Any) -> list[Any]:
    answer = await litellm.aembedding(model="text-embedding-3-small", input=texts)
    await stored()
    return [each["embedding"] for each in answer.data]


async def test_embeddings_ask_for_new_texts_alone(cache: AgentCache, provider: ProviderServer) -> None:
    use(cache)
    first = await embed(["a", "b"])
    assert await embed(["a", "b"]) == first
    mixed = await embed(["b", "c", "a"])
    assert (mixed[0], mixed[2]) == (first[1], first[0])
    assert await embed("c") == [mixed[1]]
    assert [call.params["input"] for call in provider.calls] == [["a", "b"], ["c"]]


async def test_router_shares_the_answers_of_a_group(cache: AgentCache, provider: ProviderServer) -> None:
    use(cache)
    with ProviderServer() as other:
        servers = [provider.openai_url, other.openai_url]
        router = litellm.Router(
            model_list=[
                {"model_name": name, "litellm_params": {"model": "openai/m", "api_base": server, "api_key": "k"}}
                for name in ("a", "b")
                for server in servers
            ],
            cache_responses=True,
        )
        for number, group in enumerate(("a", "b"), 1):
            for _ in range(12):
                await router.acompletion(model=group, messages=MESSAGES)
                await stored()
            assert provider.call_count + other.call_count == number


# LiteLLM's options


async def test_options_of_a_call(cache: AgentCache, provider: ProviderServer, plain: valkey.Valkey) -> None:
    use(cache, ttl=600, tags=["docs"], namespace="n")
    await ask(cache={"no-store": True})
    assert not entry_keys(plain)
    await ask(cache={"ttl": 60})
    (key,) = entry_keys(plain)
    assert ":litellm:n:" in key
    assert 0 < plain.pttl(key) <= 60_000
    await ask(cache={"no-cache": True})
    assert provider.call_count == 3
    assert 60_000 < plain.pttl(key) <= 600_000
    assert await cache.invalidate_tag("docs") == 1
    await ask()
    assert provider.call_count == 4


async def test_cache_that_is_off_by_default_serves_calls_that_ask_for_it(
    cache: AgentCache, provider: ProviderServer
) -> None:
    use(cache, mode="default_off")
    for _ in range(2):
        await ask()
    assert provider.call_count == 2
    for _ in range(2):
        await ask(cache={"use-cache": True})
    assert provider.call_count == 3


async def test_entries_are_removed_by_litellm(cache: AgentCache, provider: ProviderServer) -> None:
    use(cache)
    await ask()
    key = litellm.cache.get_cache_key(model="gpt-4o-mini", messages=MESSAGES)
    assert await litellm.cache.delete_cache_keys([key]) == 1
    await ask()
    litellm.cache.cache.flush_cache()
    await ask()
    assert provider.call_count == 3


async def test_entry_of_another_program_is_a_miss(cache: AgentCache, provider: ProviderServer) -> None:
    use(cache)
    key = litellm.cache.get_cache_key(model="gpt-4o-mini", messages=MESSAGES)
    for value in (5, {"a": 1}, [1]):
        await cache.tier("litellm").set(key, value)
        provider.forget()
        await ask()
    assert json.loads((await cache.tier("litellm").get(key))["response"])["choices"]


# Valkey


async def test_calls_go_on_once_valkey_is_killed(mortal_server: MortalServer, provider: ProviderServer) -> None:
    async with AgentCache.from_url(mortal_server.url, name="test", resilience=QUICK) as cache:
        use(cache)
        await ask()
        assert await litellm.cache.ping()
        assert (await litellm.cache.cache.test_connection())["status"] == "success"
        mortal_server.kill()
        for seed, options in enumerate([{}, {"plain": True}, {"stream": True}]):
            assert await ask(seed=seed, **options)
        assert len(await embed(["a", "b"])) == 2
        assert not await litellm.cache.ping()
        assert (await litellm.cache.cache.test_connection())["status"] == "failed"
        await litellm.cache.disconnect()
    assert provider.call_count == 5


async def test_calls_go_on_with_a_closed_cache(cache: AgentCache, provider: ProviderServer) -> None:
    use(cache)
    await cache.aclose()
    for plain in (False, True):
        assert await ask(plain)


@pytest.mark.parametrize(
    "argument",
    [{"cache": 1}, {"ttl": 0}, {"tags": "a"}, {"tier": "a b"}, {"mode": "on"}, {"namespace": 1}],
    ids=str,
)
async def test_wrong_argument_is_refused(memory: AgentCache, argument: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(argument))):
        TierCacheLiteLLM(**{"cache": memory, **argument})
