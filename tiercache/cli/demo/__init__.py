"""The demo: several worker processes, one Valkey, one endpoint, and a table of the savings.

``run`` starts and stops everything, ``worker`` and ``endpoint`` are the programs of the other processes, ``workload``
makes the requests, ``answers`` makes the right answers, ``summary`` adds up the counts, ``report`` prints the tables.
"""
