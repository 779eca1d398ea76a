"""Collections. So far one kind: stop the world, and the caller says who is dead (`cycle.collect`).

The concurrent, tracing collector belongs here: it will act between safepoints while the core marks and sweeps. What
it asks is here already, as policies that are driven by numbers and know no heap: `pacer` (when, how many workers, what
an allocation owes; `controller` has what any pacer shares) and `limiter` (not beyond half of the CPU time).
"""
