"""Execution traces made by hand, batch by batch."""

from __future__ import annotations


def uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def batch(
    contents: bytes, *, generation: int = 1, m: int = 1, time: int = 1_000, experiment: int = 0
) -> bytes:
    head = bytes([49, experiment]) if experiment else b"\x01"
    return head + b"".join(map(uvarint, (generation, m, time, len(contents)))) + contents


def made(*batches: bytes, frequency: int = 1_000_000_000, end: bytes = b"\x34") -> bytes:
    sync = batch(b"\x32\x08" + uvarint(frequency), m=2**64 - 1, time=100)
    return b"go 1.26 trace\0\0\0" + sync + b"".join(batches) + end
