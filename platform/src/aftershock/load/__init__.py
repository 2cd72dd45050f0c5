"""Load as an open model: arrivals follow a schedule that never waits for the shop, and every request is kept.

`start(plan, folder, scratch)` starts k6 or Locust as a child; a thread streams what it sends into `samples.parquet`;
`RunningLoad.finish` gives the facts that say whether the load was really offered. `remote.RemoteLoad` is the same inside the
cluster, and not imported here, since this package is what runs there.
"""

from aftershock.load.plan import TIMEOUT_S, LoadPlan
from aftershock.load.running import RunningLoad, start

__all__ = ["TIMEOUT_S", "LoadPlan", "RunningLoad", "start"]
