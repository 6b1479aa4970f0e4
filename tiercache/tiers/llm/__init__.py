"""The llm tier: answers of language models."""
