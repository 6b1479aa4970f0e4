"""LangChain must not send traces anywhere."""

import os

os.environ["LANGSMITH_TRACING"] = "false"
