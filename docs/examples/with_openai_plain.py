"""The SDK of OpenAI in plain code, without an event loop: chat completions, whole and streamed.

python -m pip install ".[openai]"
"""

import os

from openai import OpenAI

from tiercache import AgentCache

MESSAGES = [{"role": "user", "content": "Which river runs through Vienna?"}]


def main() -> None:
    cache = AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379"))
    client = cache.wrap(OpenAI())
    with cache.sync:
        for _ in range(2):
            answer = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
            print(answer.choices[0].message.content)

        for _ in range(2):
            for chunk in client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True):
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            print()


main()
