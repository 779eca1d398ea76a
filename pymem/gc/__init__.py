"""Collections. So far one kind: stop the world, and the caller says who is dead (`cycle.collect`).

The concurrent, tracing, paced collector belongs here: it will decide between safepoints (phases, pacing, assists) while
the core marks and sweeps. It replaces who sets the mark bits and when; sweeping stays as it is.
"""
