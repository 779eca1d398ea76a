"""Heap profiles in pprof's format, which `go tool pprof` reads: gzip around one protobuf message."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

from pymem._extras import need

if TYPE_CHECKING:
    from pymem.export.heap_profile import HeapProfile
    from pymem.workload.sites import SiteFrame

__all__ = ["VALUES", "pprof"]

VALUES = (
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
)
"""What each sample has, in the order of Go's own heap profiles."""

_FIELDS = {
    "Profile": (
        ("sample_type", 1, "ValueType*"),
        ("sample", 2, "Sample*"),
        ("location", 4, "Location*"),
        ("function", 5, "Function*"),
        ("string_table", 6, "string*"),
        ("duration_nanos", 10, "int64"),
        ("period_type", 11, "ValueType"),
        ("period", 12, "int64"),
        ("comment", 13, "int64*"),
        ("default_sample_type", 14, "int64"),
    ),
    "ValueType": (("type", 1, "int64"), ("unit", 2, "int64")),
    "Sample": (("location_id", 1, "uint64*"), ("value", 2, "int64*"), ("label", 3, "Label*")),
    "Label": (("key", 1, "int64"), ("str", 2, "int64")),
    "Location": (("id", 1, "uint64"), ("line", 4, "Line*")),
    "Line": (("function_id", 1, "uint64"), ("line", 2, "int64")),
    "Function": (
        ("id", 1, "uint64"),
        ("name", 2, "int64"),
        ("system_name", 3, "int64"),
        ("filename", 4, "int64"),
    ),
}
"""Fields of pprof's profile.proto that a heap profile needs: name, number, type; * is repeated."""


def pprof(profile: HeapProfile) -> bytes:
    """Return a profile as pprof reads it. Raises `MissingExtraError` without protobuf."""
    message = _Encoder(_profile_class()()).encode(profile)
    return gzip.compress(message.SerializeToString(deterministic=True), mtime=0)


def _profile_class() -> Any:
    """Return the class of the message, made from the fields above."""
    descriptors: Any = need("google.protobuf.descriptor_pb2", "export")
    pools: Any = need("google.protobuf.descriptor_pool", "export")
    factory: Any = need("google.protobuf.message_factory", "export")
    file = descriptors.FileDescriptorProto(name="pymem/profile.proto", package="pymem", syntax="proto3")
    kinds = descriptors.FieldDescriptorProto
    for message, described in _FIELDS.items():
        of = file.message_type.add(name=message)
        for name, number, kind in described:
            field = of.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
            if kind.endswith("*"):
                field.label = kinds.LABEL_REPEATED
            base = kind.removesuffix("*")
            if base in _FIELDS:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".pymem.{base}"
            else:
                field.type = getattr(kinds, f"TYPE_{base.upper()}")
    pool = pools.DescriptorPool()
    pool.Add(file)
    return factory.GetMessageClass(pool.FindMessageTypeByName("pymem.Profile"))


class _Encoder:
    """Fills a message; texts, functions and places are in it once and go by number."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self._texts: dict[str, int] = {}
        self._functions: dict[tuple[str, str], int] = {}
        self._places: dict[SiteFrame, int] = {}
        self._text("")  # the format wants it first

    def encode(self, profile: HeapProfile) -> Any:
        message = self._message
        for name, unit in VALUES:
            message.sample_type.add(type=self._text(name), unit=self._text(unit))
        message.period_type.type, message.period_type.unit = self._text("space"), self._text("bytes")
        message.period = 1  # each object is told, none stands for others
        message.default_sample_type = self._text("inuse_space")
        message.duration_nanos = profile.at_ns
        if profile.comment:
            message.comment.append(self._text(profile.comment))
        for sample in profile.samples:
            encoded = message.sample.add(
                location_id=[self._place(frame) for frame in sample.stack],
                value=[sample.alloc_objects, sample.alloc_bytes, sample.inuse_objects, sample.inuse_bytes],
            )
            encoded.label.add(key=self._text("type"), str=self._text(sample.type))
        return message

    def _text(self, text: str) -> int:
        number = self._texts.get(text)
        if number is None:
            number = self._texts[text] = len(self._texts)
            self._message.string_table.append(text)
        return number

    def _place(self, frame: SiteFrame) -> int:
        number = self._places.get(frame)
        if number is None:
            number = self._places[frame] = len(self._places) + 1
            line = self._message.location.add(id=number).line.add(line=frame.line)
            line.function_id = self._function(frame)
        return number

    def _function(self, frame: SiteFrame) -> int:
        key = (frame.function, frame.file)
        number = self._functions.get(key)
        if number is None:
            number = self._functions[key] = len(self._functions) + 1
            name = self._text(frame.function)
            self._message.function.add(
                id=number, name=name, system_name=name, filename=self._text(frame.file)
            )
        return number
