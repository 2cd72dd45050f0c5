"""Protobuf bodies: what kubectl sends is read, what is not known is refused, and nothing breaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkube.api import protobuf
from pocketkube.errors import ApiError, BadRequest, UnsupportedMediaType


def varint(value: int) -> bytes:
    made = b""
    while value > 0x7F:
        made, value = made + bytes([value & 0x7F | 0x80]), value >> 7
    return made + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(kind: str, raw: bytes) -> bytes:
    return protobuf.MAGIC + field(1, field(1, "v1") + field(2, kind)) + field(2, raw) + field(3, "") + field(4, "")


def test_a_secret_as_kubectl_sends_it() -> None:
    meta = (
        field(1, "postgres")
        + field(2, "")
        + field(3, "shop")
        + field(4, "")
        + field(5, "")
        + field(7, 0)
        + field(8, b"")
    )
    raw = field(1, meta) + field(2, field(1, "password") + field(2, b"\x00\xff")) + field(3, "Opaque")
    assert protobuf.decode(envelope("Secret", raw)) == {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "postgres", "namespace": "shop"}, "data": {"password": "AP8="},
        "type": "Opaque"}  # fmt: skip


def test_zero_is_kept_where_go_has_a_pointer() -> None:
    raw = field(1, field(1, "a")) + field(2, field(1, 0) + field(5, "All"))
    assert protobuf.decode(envelope("Eviction", raw))["deleteOptions"] == {"gracePeriodSeconds": 0, "dryRun": ["All"]}
    budget = field(2, field(1, field(1, 1) + field(2, 0) + field(3, "50%")) + field(3, field(1, 0) + field(2, 2)))
    assert protobuf.decode(envelope("PodDisruptionBudget", budget))["spec"] == {
        "minAvailable": "50%",
        "maxUnavailable": 2,
    }
    deleted = field(1, field(8, field(1, 0)))
    assert protobuf.decode(envelope("ConfigMap", deleted))["metadata"] == {"creationTimestamp": "1970-01-01T00:00:00Z"}


def test_what_is_only_known_in_part_loses_nothing_in_silence() -> None:
    empty, filled = field(99, field(1, "")), field(99, field(1, "x"))
    assert protobuf.decode(envelope("ConfigMap", empty)) == {"apiVersion": "v1", "kind": "ConfigMap"}
    with pytest.raises(UnsupportedMediaType, match="field 99 of ConfigMap"):
        protobuf.decode(envelope("ConfigMap", filled))
    with pytest.raises(UnsupportedMediaType, match="does not read Job"):
        protobuf.decode(envelope("Job", b""))


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for body in (data, protobuf.MAGIC + data, envelope("Deployment", data), envelope("Secret", data)):
        try:
            assert isinstance(protobuf.decode(body), dict)
        except ApiError:
            pass


def test_a_body_without_the_prefix_is_refused() -> None:
    with pytest.raises(BadRequest, match="prefix"):
        protobuf.decode(b"{}")
