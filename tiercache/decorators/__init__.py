"""Decorators: functions whose results are cached."""
