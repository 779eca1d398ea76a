"""Workloads: what a program does to memory, wherever that is known from."""

from pymem.workload.columns import Columns, Event
from pymem.workload.sources import open_recording, open_stream
from pymem.workload.workload import Workload, WorkloadType

__all__ = ["Columns", "Event", "Workload", "WorkloadType", "open_recording", "open_stream"]
