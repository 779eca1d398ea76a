"""Make a corpus for the trace fuzzer out of the small real traces: whole, cut, batches dropped or doubled.

python fuzz/make_corpus.py FOLDER
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

TRACES = Path(__file__).parent.parent / "tests" / "data"
HEADER_SIZE = 16
EVENT_BATCH, EXPERIMENTAL_BATCH, END_OF_GENERATION = 1, 49, 52


def read_number(data: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length number at `at` and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def split(data: bytes) -> list[bytes]:
    """Split a trace into its header, batches and end marks."""
    pieces, at = [data[:HEADER_SIZE]], HEADER_SIZE
    while at < len(data):
        start, kind = at, data[at]
        at += 1 if kind != EXPERIMENTAL_BATCH else 2
        if kind != END_OF_GENERATION:
            for _ in range(4):  # generation, M, time, size
                number, at = read_number(data, at)
            at += number
        pieces.append(data[start:at])
    return pieces


def variants(data: bytes, random: random.Random) -> list[bytes]:
    """Return the trace itself and some that no Go has written."""
    pieces = split(data)
    small = [piece for piece in pieces if len(piece) < 2_000]
    some = random.randrange(1, len(pieces))
    return [
        data,
        data[: random.randrange(len(data))],
        b"".join(pieces[:some]),
        b"".join(pieces[:some] + pieces[some + 1 :]),
        b"".join(pieces[: some + 1] + pieces[some:]),
        b"".join(pieces[:1] + random.sample(pieces[1:], len(pieces) - 1)),
        b"".join(small),
    ]


def main() -> None:
    """Write the corpus; the same one every time."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(1)
    for path in sorted(TRACES.glob("*.trace")):
        for number, data in enumerate(variants(path.read_bytes(), chance)):
            (folder / f"{path.stem}-{number}.trace").write_bytes(data)


if __name__ == "__main__":
    main()
