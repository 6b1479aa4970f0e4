"""Conversations: records with a revision, and the logs of messages that conversations share after a fork."""
