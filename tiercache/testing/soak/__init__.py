"""The soak: processes under a mixed load and random faults for minutes or hours, every answer and every bound checked.

See ``python -m tiercache.testing.soak --help``. The soak needs the ``embedded`` extra, because its servers are real.
"""

from .run import Outcome, SoakSettings, run_soak

__all__ = ["Outcome", "SoakSettings", "run_soak"]
