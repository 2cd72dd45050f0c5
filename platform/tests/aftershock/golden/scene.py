"""When and where the golden run took place: windows, nodes, pods."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

SECOND = 1_000_000
STARTED_US = 1_768_471_200 * SECOND  # 2026-01-15T10:00:00Z
RUN_ID = "20260115T100000Z-5eed07"
SEED, RATE_PER_S = 7, 40
LENGTHS_S = {"warm_up": 2, "baseline": 6, "fault": 8, "recovery": 6}
ITERATIONS = RATE_PER_S * sum(LENGTHS_S.values())
NODES = ("brain", "body", "body2", "memory")
CALLS = (("storefront", "catalog"), ("storefront", "cart"), ("storefront", "orders"), ("cart", "catalog"), ("orders", "cart"),
         ("orders", "payments"), ("orders", "shipping"),
         *((s, "postgres") for s in ("catalog", "cart", "orders", "payments", "shipping")))  # fmt: skip


def _windows() -> dict[str, dict[str, int]]:
    windows, at = {}, STARTED_US + 3 * SECOND
    for name, length_s in LENGTHS_S.items():
        windows[name] = {"from_us": at, "to_us": at + length_s * SECOND}
        at += length_s * SECOND
    return windows


WINDOWS = _windows()
LOAD_US, FAULT_US, RECOVERY_US = (WINDOWS[w]["from_us"] for w in ("warm_up", "fault", "recovery"))
END_US = WINDOWS["recovery"]["to_us"]
KILLED_US = FAULT_US + 14_200  # the process is gone
ROUTED_US = FAULT_US + 412_000  # the proxies no longer offer its address
READY_US = FAULT_US + 1_640_000  # the replacement serves


@dataclass(frozen=True)
class Pod:
    """A pod as the run saw it."""

    name: str
    uid: str
    service: str
    node: str
    ip: str

    @property
    def row(self) -> dict[str, str]:
        return {"name": self.name, "uid": self.uid, "service": self.service, "node": self.node, "ip": self.ip}


def uid(rng: Random) -> str:
    """A version 4 UUID from a seeded source."""
    h = f"{rng.getrandbits(128):032x}"
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-8{h[17:20]}-{h[20:]}"


def _pods() -> tuple[Pod, ...]:
    rng = Random(20_260_115)
    letters, pods, octet = "bcdfghjklmnpqrstvwxz2456789", [], dict.fromkeys(NODES, 1)
    for service, hash_, nodes in (
        ("storefront", "7d9c6b54f8", ("body", "body2")), ("catalog", "5f7b8d9c44", ("body2",)), ("cart", "6b8f5c7d96", ("body", "body2")),
        ("orders", "84c9d7f6b5", ("body", "body2")), ("payments", "6c8f7d9b5c", ("body", "body2")), ("shipping", "58d6f9c7b4", ("body",)),
        ("postgres", "", ("memory",)), ("payments", "6c8f7d9b5c", ("body",)),
    ):  # fmt: skip
        for node in nodes:
            octet[node] += 1
            tail = "".join(rng.choice(letters) for _ in range(5))
            name = f"{service}-{hash_}-{tail}" if hash_ else f"{service}-0"
            pods.append(Pod(name, uid(rng), service, node, f"127.41.{NODES.index(node)}.{octet[node]}"))
    return tuple(pods)


ALL_PODS = _pods()
PODS, REPLACEMENT = ALL_PODS[:-1], ALL_PODS[-1]
VICTIM, SURVIVOR = (p for p in PODS if p.service == "payments")
