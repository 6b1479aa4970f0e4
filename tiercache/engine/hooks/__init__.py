"""Hooks: functions of the program that the cache calls with each of its events."""
