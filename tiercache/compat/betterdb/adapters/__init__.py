"""betterdb-agent-cache's names of adapters, by framework. A module needs its framework when it is imported."""
