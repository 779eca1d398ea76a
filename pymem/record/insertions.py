"""Where the recorder's calls go in the user's own copy of package runtime.

A place is named by a function and, for a place inside it, by a short identifier found there. Nothing of
Go's text is kept here: the tool reads the runtime of the toolchain at hand and adds calls of the functions in
``pymem_recorder.go.txt``. Calls share a line with what was there, so line numbers in tracebacks stay right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pymem.errors import RecordingError

__all__ = ["INSERTIONS", "Insertion", "apply", "sources"]

_SYS_IMPORT = 'import pymemsys "internal/runtime/sys"'
_PC = "pymemsys.GetCallerPC()"


@dataclass(frozen=True, slots=True)
class Insertion:
    """One call to add; ``{0}``, ``{1}`` in it are the function's parameters, ``{recv}`` its receiver."""

    file: str
    function: str  # as Go's tracebacks name it, such as (*mheap).grow; * and ? also match names
    call: str
    place: str = (
        "head"  # head, tail (before the closing brace), before or after the lines that hold the anchor
    )
    anchor: str = ""
    which: str = "only"  # of the anchor's lines in the function: only, last or all


@dataclass(frozen=True, slots=True)
class _Function:
    """A function found in a source file: where its body starts and ends, and the names in its signature."""

    name: str
    start: int  # just after the opening brace's line end
    end: int  # at the closing brace
    names: dict[str, str]


def _malloc(file: str) -> tuple[Insertion, ...]:
    begin = "pymemMallocBegin({size}, {typ}, {needzero})"
    return (
        Insertion(file, "mallocgc*", begin, "after", "mp.mallocing = 1", "all"),
        Insertion(file, "mallocgc*", "pymemMallocEnd(x)", "before", "mp.mallocing = 0", "all"),
    )


INSERTIONS: tuple[Insertion, ...] = (
    # Life of the process.
    Insertion("proc.go", "schedinit", "pymemInit()"),
    Insertion("proc.go", "schedinit", "pymemSchedDone()", "tail"),
    Insertion("proc.go", "procresize", "pymemResize(gomaxprocs, {0})"),
    Insertion("proc.go", "(*p).destroy", "pymemPut(pymemOpProcDestroy, uint64({recv}.id), 0, 0)"),
    Insertion(
        "proc.go", "newproc1", "pymemPut(pymemOpGoCreate, newg.goid, 0, 0)", "before", "return newg", "last"
    ),
    Insertion("proc.go", "gdestroy", "pymemPut(pymemOpGoExit, {0}.goid, 0, 0)"),
    # Objects.
    *_malloc("malloc.go"),
    *_malloc("malloc_generated.go"),
    Insertion("mcache.go", "(*mcache).refill", "pymemSpanRefill(s)", "before", "c.alloc[spc] = "),
    Insertion("mcache.go", "(*mcache).releaseAll", "pymemFlush({recv})"),
    Insertion(
        "mcache.go",
        "(*mcache).releaseAll",
        "pymemPut(pymemOpUncache, uint64(s.base()), 0, 0)",
        "before",
        ".uncacheSpan(",
    ),
    Insertion("mcache.go", "allocmcache", "pymemPut(pymemOpMCacheAlloc, 0, 0, 0)"),
    Insertion("mcache.go", "freemcache", "pymemPut(pymemOpMCacheFree, uint64(pymemPOf({0}, nil)), 0, 0)"),
    # Spans and pages.
    Insertion(
        "mheap.go",
        "(*mheap).allocSpan",
        "pymemPages(pymemOpPageAlloc, base, {0})",
        "after",
        ".pages.alloc({0})",
        "all",
    ),
    Insertion(
        "mheap.go", "(*mheap).allocSpan", "pymemSpanAlloc(base, {0}, {1}, {2})", "before", ".initSpan(s,"
    ),
    Insertion("mheap.go", "(*mheap).reclaim", "pymemPut(pymemOpReclaim, uint64({0}), 0, 0)"),
    Insertion("mheap.go", "(*mheap).freeSpan", "pymemSpanFree({0}, spanAllocHeap)"),
    Insertion("mheap.go", "(*mheap).freeManual", "pymemSpanFree({0}, {1})"),
    Insertion("mheap.go", "(*mheap).freeSpanLocked", "pymemPages(pymemOpPageFree, {0}.base(), {0}.npages)"),
    Insertion("mpagealloc.go", "(*pageAlloc).grow", "pymemGrow({0}, {1})"),
    Insertion("mpagealloc.go", "(*pageAlloc).markRandomPaddingPages", "pymemPadding({0}, {1})"),
    Insertion(
        "mpagecache.go", "(*pageAlloc).allocToCache", "pymemPCacheFill(&c)", "before", "return c", "last"
    ),
    Insertion("mpagecache.go", "(*pageCache).flush", "pymemPCacheFlush({recv})"),
    Insertion("mgcscavenge.go", "(*pageAlloc).scavenge", "pymemScavenge({0}, force)"),
    Insertion(
        "mgcscavenge.go",
        "(*pageAlloc).scavengeOne",
        "pymemPages(pymemOpScavBegin, addr, uintptr(npages))",
        "after",
        ".allocRange(",
    ),
    Insertion(
        "mgcscavenge.go",
        "(*pageAlloc).scavengeOne",
        "pymemPages(pymemOpScavEnd, addr, uintptr(npages))",
        "after",
        ".scavenged.setRange(",
    ),
    # Collection.
    Insertion("mheap.go", "nextMarkBitArenaEpoch", "pymemPut(pymemOpMarkBitEpoch, 0, 0, 0)"),
    Insertion("mgcsweep.go", "finishsweep_m", "pymemPut(pymemOpFinishSweep, 0, 0, 0)"),
    Insertion("mgc.go", "gcStart", "pymemGCStart({0}.kind)", "after", "work.userForced ="),
    Insertion("mgc.go", "setGCPhase", "pymemPut(pymemOpGCPhase, uint64({0}), 0, 0)"),
    Insertion("mgc.go", "gcMarkTermination", "pymemPut(pymemOpGCMarkTerm, 0, 0, 0)"),
    Insertion(
        "mgc.go",
        "gcSweep",
        "pymemPut(pymemOpFlip, uint64(mheap_.sweepgen), 0, 0)",
        "after",
        "mheap_.sweepgen +=",
    ),
    Insertion("mgcsweep.go", "(*sweepLocked).sweep", "pymemSweep(s, {0})", "before", "mheap_.pagesSwept."),
    Insertion("mgcsweep.go", "(*sweepLocked).sweep", "pymemSlotsFreed(s)", "before", "|| debug.clobberfree"),
    Insertion(
        "mgcsweep.go",
        "(*activeSweep).end",
        "pymemPut(pymemOpGCSweepDone, uint64(mheap_.sweepgen), 0, 0)",
        "before",
        "if debug.gcpacertrace",
    ),
    Insertion("mgcpacer.go", "(*gcControllerState).commit", "pymemPacer({recv})", "tail"),
    Insertion("mgcpacer.go", "(*gcControllerState).startCycle", "pymemCycleStart({recv})"),
    Insertion(
        "mgcpacer.go",
        "(*gcControllerState).setGCPercent",
        "pymemPut(pymemOpGCPercent, uint64({0}), 0, 0)",
    ),
    Insertion(
        "mgcpacer.go",
        "(*gcControllerState).setMemoryLimit",
        "pymemPut(pymemOpMemoryLimit, uint64({0}), 0, 0)",
    ),
    # Objects with finalizers, which marking counts once more.
    Insertion("mheap.go", "addfinalizer", "pymemFinalizer({0}, 1)", "before", "return true"),
    Insertion(
        "mheap.go", "removefinalizer", "pymemFinalizer({0}, 0)", "before", ".specialfinalizeralloc.free("
    ),
    Insertion("mheap.go", "freeSpecial", "pymemFinalizer({1}, 2)", "before", "queuefinalizer("),
    # Stacks.
    Insertion("stack.go", "stackalloc", "pymemStackAlloc({0})"),
    Insertion(
        "stack.go",
        "stackalloc",
        "pymemPut(pymemOpStackAllocEnd, uint64(uintptr(v)), 0, 0)",
        "before",
        "return stack{",
        "all",
    ),
    Insertion("stack.go", "stackfree", "pymemStackFree({0})"),
    Insertion("stack.go", "stackcache_clear", "pymemStackClear({0})"),
    Insertion(
        "stack.go",
        "stackpoolalloc",
        "pymemPut(pymemOpStackPoolAlloc, uint64(x), uint64({0}), 0)",
        "before",
        "return x",
    ),
    Insertion("stack.go", "stackpoolfree", "pymemPut(pymemOpStackPoolFree, uint64({0}), uint64({1}), 0)"),
    Insertion("stack.go", "freeStackSpans", "pymemPut(pymemOpFreeStackSpans, 0, 0, 0)"),
    # Off-heap memory.
    Insertion("malloc.go", "persistentalloc", f"pymemOffHeap(pymemOpPersistent, {{0}}, {{1}}, {{2}}, {_PC})"),
    Insertion("mem.go", "sysAlloc", f"pymemOffHeap(pymemOpSysAlloc, {{0}}, 0, {{1}}, {_PC})"),
    Insertion("mem.go", "sysFree", f"pymemOffHeap(pymemOpSysFree, {{1}}, 0, {{2}}, {_PC})"),
    Insertion("mem.go", "sysMap", f"pymemOffHeap(pymemOpSysMap, {{1}}, 0, {{2}}, {_PC})"),
    Insertion("mem.go", "sysUnused", "pymemPut(pymemOpSysUnused, uint64(uintptr({0})), uint64({1}), 0)"),
    Insertion(
        "mem.go", "sysUsed", "pymemPut(pymemOpSysUsed, uint64(uintptr({0})), uint64({1}), uint64({2}))"
    ),
    # Statistics.
    Insertion("mstats.go", "readmemstats_m", "pymemPut(pymemOpReadMemStats, 0, 0, 0)"),
    Insertion("mstats.go", "readmemstats_m", "pymemMemStats({0})", "tail"),
)


def sources() -> list[str]:
    """Names of the runtime's files that get calls, sorted."""
    return sorted({insertion.file for insertion in INSERTIONS})


def apply(file: str, text: str, version: str) -> str:
    """Return ``text``, the runtime's ``file`` of Go ``version``, with every call in its place."""
    edits: list[tuple[int, str]] = []
    for insertion in INSERTIONS:
        if insertion.file == file:
            edits += _edits(insertion, text, version)
    if any(_PC in code for _, code in edits):
        package = re.search(r"^package runtime$", text, re.MULTILINE)
        assert package is not None, "a file of package runtime says so"
        edits.append((package.end(), f"; {_SYS_IMPORT}"))
    for position, code in sorted(edits, key=lambda edit: edit[0], reverse=True):
        text = text[:position] + code + text[position:]
    return text


def _edits(insertion: Insertion, text: str, version: str) -> list[tuple[int, str]]:
    functions = list(_functions(text, insertion.function))
    if not functions:
        raise _missing(insertion, "function", version)
    return [edit for function in functions for edit in _edits_in(insertion, function, text, version)]


def _edits_in(insertion: Insertion, function: _Function, text: str, version: str) -> list[tuple[int, str]]:
    call = _fill(insertion.call, function.names)
    if insertion.place == "head":
        return [(function.start, f" {call};")]
    if insertion.place == "tail":
        return [(function.end, f"\t{call}\n")]
    lines = _anchored(_fill(insertion.anchor, function.names), function, text)
    if not lines and not _is_pattern(insertion.function):
        raise _missing(insertion, f"{insertion.anchor!r} in function", version)
    if insertion.which == "only" and len(lines) != 1:
        raise _missing(insertion, f"single {insertion.anchor!r} in function", version)
    lines = lines[-1:] if insertion.which == "last" else lines
    if insertion.place == "before":
        return [(start, f"{call}; ") for start, _ in lines]
    return [(end, f"; {call}") for _, end in lines]


def _is_pattern(function: str) -> bool:
    return function.endswith("*")


def _fill(template: str, names: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], "true"), template)


def _missing(insertion: Insertion, what: str, version: str) -> RecordingError:
    return RecordingError(
        f"{version} has no {what} {insertion.function} in runtime/{insertion.file}, which the exact recorder"
        " needs: record an execution trace with the unchanged toolchain instead, or use Go 1.27.x"
    )


_HEADER = re.compile(
    r"^func (?:\((?P<recv>\w+) (?P<star>\*?)(?P<type>\w+)\) )?(?P<name>\w+)\((?P<params>.*?)\)[^\n]*\{(?=\n)",
    re.MULTILINE,
)


def _functions(text: str, wanted: str) -> Iterator[_Function]:
    """Yield the functions of a gofmt-formatted file whose name is, or matches, the wanted one."""
    for header in _HEADER.finditer(text):
        name = header["name"]
        if header["type"]:
            name = f"({header['star']}{header['type']}).{name}"
        if name == wanted or (_is_pattern(wanted) and fnmatchcase(name, wanted)):
            end = text.index("\n}\n", header.end()) + 1
            yield _Function(name, header.end(), end, _names(header["recv"], header["params"]))


def _names(receiver: str | None, params: str) -> dict[str, str]:
    """Map what templates may use to Go names: recv, a parameter's position, and its own name."""
    names = [param.split()[0] for param in params.split(",") if param.strip()]
    found = {str(i): name for i, name in enumerate(names)} | {name: name for name in names}
    return found | {"recv": receiver or ""}


def _anchored(anchor: str, function: _Function, text: str) -> list[tuple[int, int]]:
    """Start (after the indent) and end of each line of code of the function that holds the anchor."""
    lines = []
    for line in re.finditer(r"[^\n]+", text[function.start : function.end]):
        code = line[0].split("//")[0].rstrip()
        if anchor in code:
            indent = len(code) - len(code.lstrip())
            lines.append((function.start + line.start() + indent, function.start + line.start() + len(code)))
    return lines
