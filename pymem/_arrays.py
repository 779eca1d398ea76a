"""What users pass in, as the arrays that the core takes; what cannot be one is a SizeError that says why."""

from __future__ import annotations

import operator
from collections.abc import Set as AbstractSet
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pymem._native import ffi
from pymem.errors import AddressError, SizeError

__all__ = ["UInt64s", "address", "addresses", "byte_count", "check_even", "mask", "pointer", "room", "sizes"]

UInt64s = npt.NDArray[np.uint64]

_MOST = 1 << 48
"""Elements of a batch: beyond it the addresses alone would not fit into a machine."""


def pointer(kind: str, array: npt.NDArray[Any]) -> Any:
    """Return an array as a C pointer that keeps it alive."""
    return ffi.from_buffer(kind + "[]", array)


def byte_count(size: Any, what: str = "size") -> int:
    """Return a size as a number from 0 to 2**64 - 1."""
    try:
        n = operator.index(size)
    except TypeError:
        raise SizeError(f"{what} {size!r} is not a whole number: give bytes as an int") from None
    if n < 0:
        raise SizeError(f"{what} {n} is negative: give 0 or more bytes")
    if n >= 1 << 64:
        raise SizeError(f"{what} {n} does not fit into 64 bits: no address space is that large")
    return n


def address(value: Any) -> int:
    """Return an address as a number that no object has if it is out of range."""
    try:
        n = operator.index(value)
    except TypeError:
        raise AddressError(f"address {value!r} is not a whole number: give an address as an int") from None
    if not 0 <= n < 1 << 64:
        raise AddressError(f"address {n:#x} is none: give one from 0 to 2**64 - 1")
    return n


def check_even(what: str, values: Any, error: type[SizeError] | type[AddressError] = SizeError) -> None:
    """Refuse nested lists whose lengths differ: numpy makes no array of them."""
    try:
        np.ndim(values)
    except ValueError:
        raise error(f"{what}: its rows have different lengths: give a flat array or list") from None


def _whole_numbers(values: Any, what: str, error: type[SizeError] | type[AddressError]) -> UInt64s:
    check_even(what, values, error)
    array = np.asarray(values)
    if array.dtype.kind == "f" and isinstance(values, list | tuple):
        array = _mixed(values, array)
    if array.ndim != 1:
        raise error(f"{what}: give a flat array or list, not one of {array.ndim} dimensions")
    if array.size == 0:
        return np.empty(0, np.uint64)
    if array.dtype.kind not in "ui":
        raise error(f"{what}: give an array of integers, not of dtype {array.dtype}")
    if array.dtype.kind == "i" and array.min() < 0:
        raise error(f"{what}: element {int(np.argmax(array < 0))} is negative")
    if array.dtype == np.int64:
        array = array.view(np.uint64)  # no copy: none is negative
    return np.ascontiguousarray(array, np.uint64)


def _is_column(values: Any) -> bool:
    """Return whether the core can take an array as it is."""
    return (
        type(values) is np.ndarray
        and values.dtype == np.uint64
        and values.ndim == 1
        and values.flags.c_contiguous
    )


def _mixed(values: Any, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a list in which ints and uint64s are mixed as integers; of those numpy makes floats."""
    try:
        return np.asarray([operator.index(v) for v in values])
    except TypeError:
        return array


def sizes(values: Any) -> UInt64s:
    """Return an array of sizes in bytes."""
    return _whole_numbers(values, "sizes", SizeError)


def addresses(values: Any) -> UInt64s:
    """Return an array of addresses; a lone one is an array of one, a set is in no order."""
    if _is_column(values):
        return cast("UInt64s", values)
    if isinstance(values, AbstractSet):
        values = list(values)
    elif isinstance(values, int | np.integer):
        values = [values]
    return _whole_numbers(values, "addresses", AddressError)


def mask(values: Any, n: int) -> npt.NDArray[np.uint8]:
    """Return a boolean mask of n elements as bytes."""
    array = np.asarray(values) if n else np.empty(0, np.bool_)
    if array.dtype != np.bool_ or array.shape != (n,):
        raise SizeError(
            f"noscan: give a bool, or {n} bools in an array, not {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array).view(np.uint8)


def room(n: int, out: UInt64s | None) -> UInt64s:
    """Return where n addresses go: the caller's array, or a new one."""
    if out is None:
        if n > _MOST:
            raise SizeError(f"a batch of {n} objects: nothing could hold their addresses")
        return np.empty(n, np.uint64)
    good = isinstance(out, np.ndarray) and out.dtype == np.uint64 and out.shape == (n,)
    if not (good and out.flags.c_contiguous and out.flags.writeable):
        raise SizeError(f"out: give a writable, contiguous uint64 array of shape ({n},)")
    return out
