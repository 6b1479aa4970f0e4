"""The demo: several worker processes, one Valkey, one endpoint, and a table of what the cache saved.

``run`` starts and stops everything, ``worker`` and ``endpoint`` are the programs of the other processes, ``workload``
says what is asked, ``answers`` what the right answer is, ``summary`` adds up, ``report`` draws.
"""
