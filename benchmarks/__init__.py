"""The benchmark suite: tiercache and its peers do the same work in the same run.

Start it with ``python -m benchmarks``.
"""
