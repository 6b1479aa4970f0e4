"""The helpers that prepare requests of model APIs for the llm tier."""
