"""An agent of Google ADK: its sessions in Valkey, its tool and its model cached. A second run asks neither of them.

python -m pip install ".[google-adk,google]" httpx
"""

import asyncio
import os

import httpx
from google import genai
from google.adk.agents import LlmAgent
from google.adk.apps import App
from google.adk.models import Gemini
from google.adk.runners import Runner
from google.genai.types import Content, HttpOptions, Part

from tiercache import AgentCache
from tiercache.adapters.google_adk import TierCachePlugin, TierCacheSessionService


def river(city: str) -> str:
    """Return the river that runs through a city."""
    print("The tool runs.")
    return f"The Danube runs through {city}."


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        client = genai.Client(http_options=HttpOptions(httpx_async_client=cache.wrap(httpx.AsyncClient(timeout=60))))
        agent = LlmAgent(name="rivers", model=Gemini(model="gemini-3.8-flash", client=client), tools=[river])
        sessions, plugin = TierCacheSessionService(cache, ttl="30d"), TierCachePlugin(cache, tools=["river"], ttl="1h")
        runner = Runner(app=App(name="rivers", root_agent=agent, plugins=[plugin]), session_service=sessions)
        session = await sessions.create_session(app_name="rivers", user_id="ada")
        question = Content(role="user", parts=[Part(text="Which river runs through Vienna?")])
        async for event in runner.run_async(user_id="ada", session_id=session.id, new_message=question):
            if event.is_final_response():
                print(event.content.parts[0].text)


asyncio.run(main())
