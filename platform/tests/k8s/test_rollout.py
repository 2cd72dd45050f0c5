"""A new version of everything that customers pass through, under load: nobody is sent away."""

from __future__ import annotations

import json
import signal
import subprocess
import time

from aftershock.load.engines import k6_binary

from .conftest import Bed, until
from .kubectl import kubectl

RATE_PER_S = 10
# Who buys tells only of what went wrong, and has the patience that a slow machine takes: lost is what is not answered well, not what waits.
SCRIPT = """
import http from 'k6/http';
export const options = {scenarios: {buy: {executor: 'constant-arrival-rate', rate: RATE, timeUnit: '1s', duration: '300s',
  preAllocatedVUs: 120}}, noConnectionReuse: __ENV.REUSE === 'no'};
const headers = {'Content-Type': 'application/json'};
function post(path, body, more) {
  const answer = http.post(__ENV.SHOP + path, JSON.stringify(body), {headers: Object.assign({}, headers, more), timeout: '10s'});
  const {status, error, body: said} = answer;
  if (status !== 201) console.log(JSON.stringify({at: Date.now(), path, status, error, said}));
  return answer;
}
export default function () {
  const cart = post('/carts', {items: [{sku: 'sku-001', quantity: 1}]});
  if (cart.status !== 201) return;
  post('/checkout', {cart_id: cart.json('cart_id'), customer: 'c'}, {'Idempotency-Key': `test-${__VU}-${__ITER}-${Date.now()}`});
}
"""


def test_a_rolling_restart_loses_no_request(bed: Bed) -> None:
    script, lost, summary = bed.folder / "buy.js", bed.folder / "lost.txt", bed.folder / "summary.json"
    script.write_text(SCRIPT.replace("RATE", str(RATE_PER_S)))
    url = bed.cluster.service_url("shop", "storefront", "http")
    load = subprocess.Popen(
        [k6_binary(), "run", "--quiet", "--address", "", "--no-usage-report", "--summary-export", str(summary),
         "--console-output", str(lost), "--log-format", "raw", "--env", f"SHOP={url}", str(script)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for service in ("storefront", "orders", "payments"):
            kubectl(bed.context, "-n", "shop", "rollout", "restart", f"deployment/{service}")
            kubectl(
                bed.context, "-n", "shop", "rollout", "status", f"deployment/{service}", "--timeout=150s", timeout_s=160
            )
            until(lambda service=service: len(pods(bed, service)) == 2, 40)  # type: ignore[misc]
        assert load.poll() is None
        ended_ms = time.time() * 1000
    finally:
        load.send_signal(signal.SIGINT)
        load.wait(30)
    failed = [json.loads(line) for line in lost.read_text().splitlines()] if lost.exists() else []
    assert [f for f in failed if f["at"] < ended_ms] == []
    counts = json.loads(summary.read_text())["metrics"]
    assert counts["http_reqs"]["count"] > 2 * RATE_PER_S * 10
    assert counts.get("dropped_iterations", {"count": 0})["count"] == 0


def pods(bed: Bed, service: str) -> list[str]:
    """Pods of a service, those that are leaving included."""
    return [
        p["metadata"]["name"] for p in bed.cluster.list("/api/v1/namespaces/shop/pods", label_selector=f"app={service}")
    ]
