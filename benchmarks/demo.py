"""What the demo costs: python benchmarks/demo.py [--setup].

Prints seconds of `aftershock demo`, its peak proportional memory (PSS, every process that it starts), and how long a killed pod's
replacement took to be Ready under load. With --setup also the seconds of `make setup` in a fresh clone with
empty caches. One JSON document on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
SAMPLE_S = 0.5


class Memory(threading.Thread):
    """Samples the proportional memory of every process whose environment has a mark; `peak_mib` is the highest sum."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self._mark, self._done = mark.encode(), threading.Event()
        self.peak_mib, self.samples = 0.0, 0

    def run(self) -> None:
        """Sample until stopped."""
        while not self._done.wait(SAMPLE_S):
            self.peak_mib = max(self.peak_mib, sum(map(self._pss, Path("/proc").iterdir())) / 1024)
            self.samples += 1

    def stop(self) -> None:
        """End the sampling."""
        self._done.set()
        self.join()

    def _pss(self, process: Path) -> int:
        try:
            if not process.name.isdigit() or self._mark not in (process / "environ").read_bytes().split(b"\0"):
                return 0
            rollup = (process / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return 0
        return next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)


def demo(scratch: Path) -> dict[str, Any]:
    """One demo, measured."""
    environment = {**os.environ, "XDG_STATE_HOME": str(scratch / "state")}
    memory = Memory(f"XDG_STATE_HOME={scratch / 'state'}")
    memory.start()
    begun = time.monotonic()
    command = [sys.executable, "-m", "aftershock.cli", "demo", "--json", "--reports", str(scratch / "reports")]
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
    took_s = time.monotonic() - begun
    memory.stop()
    if done.returncode:
        raise SystemExit(f"the demo ended with {done.returncode}:\n{done.stdout}{done.stderr[-2000:]}")
    rows = json.loads(done.stdout)
    chain = json.loads((Path(rows[0]["report"]).parent / "evidence.json").read_text())["faults"][0]["steps"]
    return {
        "demo_s": round(took_s, 1), "peak_pss_mib": round(memory.peak_mib), "memory_samples": memory.samples,
        "replacement_ready_s": round((chain["recovered"]["time_us"] - chain["observed"]["time_us"]) / 1e6, 2),
        "verdicts": [r["verdict"] for r in rows],
    }  # fmt: skip


def setup(scratch: Path) -> dict[str, Any]:
    """`make setup` in a fresh clone, with no cache of pip or uv."""
    clone = scratch / "clone"
    subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
    environment = {
        **os.environ,
        "PIP_NO_CACHE_DIR": "1",
        "UV_CACHE_DIR": str(scratch / "uv"),
        "XDG_CACHE_HOME": str(scratch / "cache"),
    }
    begun = time.monotonic()
    subprocess.run(["make", "setup"], cwd=clone, env=environment, check=True, stdout=sys.stderr)
    return {"setup_s": round(time.monotonic() - begun, 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--setup", action="store_true", help="also time the set-up with empty caches")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aftershock-bench-") as folder:
        scratch = Path(folder)
        measured = {**(setup(scratch) if chosen.setup else {}), **demo(scratch)}
    load_1, _, _ = os.getloadavg()
    print(json.dumps({**measured, "cores": os.cpu_count(), "load_at_end": round(load_1, 1)}, indent=1))


if __name__ == "__main__":
    main()
