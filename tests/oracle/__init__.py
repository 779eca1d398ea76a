"""Go programs that say what the real runtime does, and ``make`` to build, run and record them.

One folder is one Go package with a program a file: ``empty`` the runtime's own start; ``tiny`` the tiny
allocator; ``header`` objects with malloc headers; ``large`` spans of their own; ``maps``, ``slices``,
``types`` what the compiler and library allocate; ``stacks``, ``gophers`` goroutine stacks, grown and many;
``table`` random sizes and lifetimes; ``final`` finalizers and cleanups. All are deterministic but for the
runtime's own threads.

``traces`` makes execution traces; ``pacing`` asks the runtime's own pacer, with programs in folders of their own.
The folders ``gctrace`` and ``reports`` ask what the runtime tells of itself; ``reports.py`` runs them and
writes the golden files.
"""
