"""What dashboards and traces see of a cache: Prometheus metrics and OpenTelemetry spans."""
