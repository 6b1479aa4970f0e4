"""The fleet: many processes that share one cache and one Valkey. ``python -m benchmarks fleet`` measures it.

The first part is the throughput of several processes beside other caches. The second part is the cost of one load, one
store and one invalidation by the number of caches that follow.
"""
