"""The fault matrix: every operation of a cache under every fault of Valkey and of the network in front of it.

``python -m tests.faults`` runs the matrix and prints the observed outcomes; see ``docs/reliability.md``.
"""
