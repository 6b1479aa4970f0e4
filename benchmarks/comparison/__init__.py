"""The feature table of tiercache and other caches: each cell is the result of a probe, or a fact that was read.

``products/`` has one class for each product, ``probes/`` one function for each row. To add a product, write a subclass
of `Answers` or `Threads`, and add its name to `PRODUCTS`.
"""
