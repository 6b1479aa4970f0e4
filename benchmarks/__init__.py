"""The benchmark suite: tiercache beside its peers, the same work in the same run. Start it with ``python -m
benchmarks``.
"""
