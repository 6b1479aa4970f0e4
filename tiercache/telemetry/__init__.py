"""Telemetry of a cache: Prometheus metrics and OpenTelemetry spans."""
