"""Agent runs: the tool calls of one run of an agent are counted, and loops among them are found."""
