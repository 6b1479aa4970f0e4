"""The checkpoints of threads: the states of graphs, step by step, for the savers of frameworks."""
