"""What came out, for other tools: pprof, Perfetto, gctrace's readers, benchstat, and tables.

`History` is what all of them tell: of a recording as it was (`recorded_history`), or of a rerun (`rerun_history`).
The same history makes the same bytes.
"""

from pymem.export.history import History, recorded_history, rerun_history

__all__ = ["History", "recorded_history", "rerun_history"]
