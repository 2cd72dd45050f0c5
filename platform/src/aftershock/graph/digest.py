"""One short text for all that a graph holds of a run, to see without reading it whether another graph holds the same."""

from __future__ import annotations

import hashlib
import json

from aftershock.graph.rows import Rows


def digest(rows: Rows) -> str:
    """Changes when a row of the run does; the order in which rows were added does not count."""
    held = [
        rows.run_id,
        sorted((label, [table[key] for key in sorted(table)]) for label, table in rows.nodes.items() if table),
        sorted((kind, [[*ends, edges[ends]] for ends in sorted(edges)]) for kind, edges in rows.edges.items() if edges),
    ]
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:32]
