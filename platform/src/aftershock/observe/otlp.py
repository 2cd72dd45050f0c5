"""Spans of an OTLP/HTTP export as rows of traces.parquet. Source: OpenTelemetry protocol 1.x, trace_service.proto."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from aftershock.observe.connection import Request

CONTENT_TYPE = "application/x-protobuf"
TEXT_MAX = 200
_KINDS = {2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
_STATUS_ERROR = 2
_KEPT = frozenset({"http.response.status_code", "error.type", "order.id", "peer.service"})
_TIME_NS_MAX = 1 << 62
Row = dict[str, Any]


class BadExport(ValueError):
    """The body is no export of spans."""


def refusal_of(request: Request) -> tuple[int, bytes] | None:
    """Why a request is no export of spans, if it is none."""
    if request.path != b"/v1/traces":
        return 404, b"only /v1/traces"
    if request.method != b"POST":
        return 405, b"only POST"
    if request.headers.get(b"content-type", b"").partition(b";")[0].strip() != CONTENT_TYPE.encode():
        return 415, b"only application/x-protobuf"
    return None


def encoding_of(request: Request) -> bytes:
    """Content-Encoding, in lower case."""
    return request.headers.get(b"content-encoding", b"").strip().lower()


def gunzip(body: bytes, bytes_max: int) -> bytes:
    """Unpack a gzip body of at most `bytes_max` when unpacked. Raises BadExport."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(body, bytes_max)
    except zlib.error:
        raise BadExport("the body is no gzip") from None
    if not unpacker.eof or unpacker.unconsumed_tail:
        raise BadExport("the gzip body is cut off or too large")
    return unpacked


def rows(body: bytes) -> tuple[list[Row], int]:
    """Rows, and how many spans were left out because their ids or times make no sense. Raises BadExport."""
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        raise BadExport("the body is no ExportTraceServiceRequest") from None
    found: list[Row] = []
    odd = 0
    for group in request.resource_spans:
        resource = {kv.key: kv.value.string_value for kv in group.resource.attributes}
        service = resource.get("service.name", "")[:TEXT_MAX] or "unknown"
        pod, node = resource.get("k8s.pod.name") or None, resource.get("k8s.node.name") or None
        for scope in group.scope_spans:
            for span in scope.spans:
                start, end = span.start_time_unix_nano, span.end_time_unix_nano
                if len(span.trace_id) != 16 or len(span.span_id) != 8 or not 0 < start <= end < _TIME_NS_MAX:
                    odd += 1
                    continue
                known = _attributes(span.attributes)
                code = known.get("http.response.status_code")
                found.append({
                    "trace_id": span.trace_id.hex(), "span_id": span.span_id.hex(),
                    "parent_span_id": span.parent_span_id.hex() or None, "service": service, "pod": pod, "node": node,
                    "kind": _KINDS.get(span.kind, "INTERNAL"), "operation": span.name[:TEXT_MAX],
                    "peer": known.get("peer.service"), "start_us": start // 1000, "duration_us": (end - start) // 1000,
                    "status_code": code if isinstance(code, int) and 0 <= code <= 999 else None,
                    "error": span.status.code == _STATUS_ERROR, "error_type": known.get("error.type"),
                    "order_id": known.get("order.id"),
                })  # fmt: skip
    return found, odd


def _attributes(attributes: Iterable[Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for kv in attributes:
        if kv.key in _KEPT:
            value = kv.value
            if kv.key == "http.response.status_code":
                known[kv.key] = value.int_value
            else:
                known[kv.key] = value.string_value[:TEXT_MAX] or None
    return known
