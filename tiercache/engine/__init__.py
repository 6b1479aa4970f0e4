"""The engine: levels, flights, fences, lifetimes. No network, no valkey, no telemetry library."""
