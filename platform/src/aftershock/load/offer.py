"""How the load reaches the shop, what that costs, and whose clocks were compared on the way: the part of `run.json` about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftershock.errors import ClusterUnreachable
from aftershock.observe import overhead, reach, skew
from aftershock.observe.forward import Forward
from aftershock.observe.reach import Way
from aftershock.slo import Interval

if TYPE_CHECKING:
    from aftershock.cluster import Cluster
    from aftershock.experiment import Load
    from aftershock.folder import RunFolder
    from aftershock.load.remote import RemoteLoad

ROWS_MAX, BATCH_ROWS = 300_000, 50_000
HERE_US = 1_000  # how well a generator on this machine knows its own clock: k6 reads whole milliseconds


@dataclass(frozen=True)
class Offered:
    """Where the load goes; nothing before it was decided."""

    url: str = ""
    described: Mapping[str, Any] = field(default_factory=dict)


def way(cluster: Cluster, namespace: str, asked: Load, scratch: Path, stack: ExitStack) -> Offered:
    """The way from this machine, and what it costs while nobody uses it; a port-forward only where nothing else leads there.

    Raises ClusterError, ClusterUnreachable with a hint.
    """
    try:
        found = reach.way_to(cluster, namespace, asked.service, asked.port)
    except ClusterUnreachable as nowhere:
        forward = Forward(cluster, namespace, asked.service, asked.port, scratch)
        stack.callback(forward.stop)
        try:
            found = forward.start()
        except ClusterUnreachable as error:
            raise ClusterUnreachable(f"{nowhere}; {error}", hint=nowhere.hint) from None
    return _offered("runner", found, overhead.idle(found))


def inside(namespace: str, asked: Load) -> Offered:
    """The way of a load that runs in the cluster: the Service's own address."""
    url = f"http://{asked.service}.{namespace}{f':{asked.port}' if isinstance(asked.port, int) else ''}"
    return _offered("cluster", Way(url, "inside", "the Service's address, from pods in the cluster"), {})


def _offered(on: str, found: Way, cost: Mapping[str, Any]) -> Offered:
    path = {key: value for key, value in asdict(found).items() if key != "url"}
    return Offered(found.url, {"on": on, "path": {**path, **cost}})


def compared(
    folder: RunFolder, windows: Mapping[str, Mapping[str, int]], offered: Offered, remote: RemoteLoad | None,
    clocks: Sequence[Mapping[str, Any]], *, rows_max: int = ROWS_MAX,
) -> tuple[Offered, list[Mapping[str, Any]]]:  # fmt: skip
    """What is known only after the run: the way's cost under load, and all clocks, the nodes' too.

    Spans of a node whose clock was wrong are brought onto ours in `traces.parquet`.
    """
    own = [*clocks, *(remote.clocks if remote is not None else [])]
    described = {**offered.described, **(remote.described if remote is not None else {})}
    if not (described and folder.has("traces.parquet") and folder.has("samples.parquet")):
        return replace(offered, described=described), own
    spans = _some(folder, "traces.parquet", {*skew.SPAN_COLUMNS, *overhead.SPAN_COLUMNS}, rows_max)
    samples = _some(folder, "samples.parquet", {*skew.SAMPLE_COLUMNS, *overhead.SAMPLE_COLUMNS}, rows_max)
    unsure_us = max([c["uncertainty_us"] or 0 for c in remote.clocks], default=0) if remote is not None else HERE_US
    nodes = skew.clocks(spans, samples, unsure_us)
    if any(node.wrong for node in nodes):
        _rewrite(folder, nodes)
    if (baseline := windows.get("baseline")) is not None:
        cost = overhead.busy(spans, samples, Interval(baseline["from_us"], baseline["to_us"]))
        described["path"] = {**described["path"], **cost}
    return replace(offered, described=described), [*own, *(node.as_run() for node in nodes)]


def _some(folder: RunFolder, name: str, columns: set[str], rows_max: int) -> dict[str, list[Any]]:
    """Columns of a table; of a large one only some traces, chosen by their ids, so that a call and its answer are both there or neither."""
    table = folder.table(name, sorted(columns))
    every = -(-table.num_rows // rows_max)
    if every <= 1:
        return dict(table.to_pydict())
    found: dict[str, list[Any]] = {column: [] for column in columns}
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        piece = batch.to_pydict()
        kept = [n for n, trace in enumerate(piece["trace_id"]) if trace and int(trace[-6:], 16) % every == 0]
        for column in columns:
            found[column] += [piece[column][n] for n in kept]
    return found


def _rewrite(folder: RunFolder, nodes: Sequence[skew.NodeClock]) -> None:
    table = folder.table("traces.parquet")
    with folder.writer("traces.parquet") as writer:
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            piece = batch.to_pydict()
            better = skew.corrected(piece, nodes) or piece
            writer.append([dict(zip(better, row, strict=True)) for row in zip(*better.values(), strict=True)])
