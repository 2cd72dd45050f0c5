"""`pocketkube`: start, look at and end clusters. Data on stdout, progress on stderr; 0 done, 1 not done, 254 bad arguments."""

from __future__ import annotations

import argparse
import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import yaml

from pocketkube import clusters
from pocketkube.errors import StartError

EXAMPLES = """\
examples:
  pocketkube up --images gitops/apps/pocket/images.yaml     start four nodes: brain, body, body2, memory
  export KUBECONFIG=$(pocketkube kubeconfig)                then kubectl, the kubernetes client and chaos tools work
  kubectl apply -k gitops/apps/pocket                       (Secrets first, see docs/contracts.md)
  pocketkube up --name second --nodes brain,body --json     another cluster beside it, facts as JSON
  pocketkube node stop body; pocketkube node start body     a power cut, and the power back
  pocketkube status; pocketkube list; pocketkube down       look, look at all, end

A cluster is real processes at addresses 127.A.0.0/16, state in $XDG_STATE_HOME/pocketkube/NAME; ~/.kube/config is never touched.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"error: {message}\nhint: {self.prog} --help", file=sys.stderr)
        sys.exit(254)


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except StartError as error:
        print(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> _Parser:
    parser = _Parser("pocketkube", description="Kubernetes on one machine, with real processes in place of containers.",
                     epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, epilog=EXAMPLES,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        made.set_defaults(run=run)
        if name != "list":
            made.add_argument("--name", default="default", help="name of the cluster (default: default)")
        return made

    up = command("up", _up, "start a cluster; returns when its API answers and all nodes are Ready")
    up.add_argument("--images", type=Path, metavar="FILE", help="YAML file that maps images to programs")
    up.add_argument(
        "--nodes", default=",".join(clusters.NODES), help=f"names of the nodes (default: {','.join(clusters.NODES)})"
    )
    up.add_argument("--owner", type=int, metavar="PID", help="end the cluster when this process ends, however it does")
    timing = clusters.Timing()
    up.add_argument("--node-grace", type=float, metavar="S", default=timing.node_grace_s,
                    help=f"a silent node is NotReady after S seconds (default: {timing.node_grace_s:g})")  # fmt: skip
    up.add_argument("--autoscaler-sync", type=float, metavar="S", default=timing.autoscaler_sync_s,
                    help=f"autoscalers look every S seconds (default: {timing.autoscaler_sync_s:g})")  # fmt: skip
    down = command("down", _down, "end a cluster and everything it started, a killed one's leftovers included")
    status = command("status", _status, "what runs in a cluster; 1 if it does not run")
    command("kubeconfig", _kubeconfig, "print the path of a cluster's kubeconfig")
    everything = command("list", _list, "clusters of this user that run")
    node = command("node", _node, "cut the power of a node, or bring it back")
    node.add_argument("what", choices=("stop", "start"))
    node.add_argument("node", metavar="NODE")
    node.add_argument("--wait", type=float, metavar="S", default=0.0,
                      help="up to S seconds until it is NotReady or Ready")  # fmt: skip
    api = command(
        "api", _api, "end all connections to the API and refuse new ones for a while; pods and controllers go on"
    )
    api.add_argument("what", choices=("restart",))
    api.add_argument("--seconds", type=float, metavar="S", default=1.0, help="how long nobody answers (default: 1)")
    api.add_argument("--compact", action="store_true", help="watches cannot resume where they were: 410 Gone")
    for each in (up, down, status, everything, node, api):
        each.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _up(arguments: argparse.Namespace) -> int:
    if arguments.images is not None and not arguments.images.is_file():
        raise StartError(f"there is no file {arguments.images}", "for the shop it is gitops/apps/pocket/images.yaml")
    stages = {"images": "claiming an address", "processes": "starting processes", "nodes": "waiting for nodes"}
    cluster, fresh = clusters.up(
        clusters.checked(arguments.name), [n for n in arguments.nodes.split(",") if n], arguments.images,
        lambda text: print(f"pocketkube {arguments.name}: {stages.get(text, text)}", file=sys.stderr), arguments.owner,
        clusters.Timing(arguments.node_grace, arguments.autoscaler_sync),
    )  # fmt: skip
    wanted = str(arguments.images.resolve()) if arguments.images else cluster.facts["images"]
    if not fresh and wanted != cluster.facts["images"]:
        print(f"warning: {arguments.name} runs already, with the images of {cluster.facts['images']}\n"
              f"hint: pocketkube down --name {arguments.name}", file=sys.stderr)  # fmt: skip
    timing = {"node_grace_s": arguments.node_grace, "autoscaler_sync_s": arguments.autoscaler_sync}
    if cluster.facts.get("timing", timing) != timing:
        print(f"warning: {arguments.name} runs already, with {cluster.facts['timing']}\n"
              f"hint: pocketkube down --name {arguments.name}", file=sys.stderr)  # fmt: skip
    _show(arguments.json, cluster.facts, [
        f"{cluster.name}: {'up' if fresh else 'up already'} at {cluster.facts['server']}, nodes {' '.join(cluster.facts['nodes'])}",
        f"export KUBECONFIG={cluster.facts['kubeconfig']}",
    ])  # fmt: skip
    return 0


def _down(arguments: argparse.Namespace) -> int:
    ended = clusters.down(arguments.name)
    _show(
        arguments.json,
        {"name": arguments.name, "ended": ended},
        [f"{arguments.name}: {'ended' if ended else 'was not running'}"],
    )
    return 0


def _status(arguments: argparse.Namespace) -> int:
    cluster = _running(arguments.name)
    nodes = _get(cluster, "/api/v1/nodes")["items"]
    pods = _get(cluster, "/api/v1/pods")["items"]
    facts = {
        **cluster.facts,
        "node_status": [{"name": n["metadata"]["name"], "ready": _is_ready(n)} for n in nodes],
        "pods": [{"namespace": p["metadata"]["namespace"], "name": p["metadata"]["name"], "node": p["spec"].get("nodeName"),
                  "phase": p["status"].get("phase"), "ready": _is_ready(p), "ip": p["status"].get("podIP")} for p in pods],
        "unenforced": _get(cluster, "/debug/unenforced")["unenforced"],
    }  # fmt: skip
    _show(arguments.json, facts, [
        f"{cluster.name}: {cluster.facts['server']}",
        *(f"  node {n['name']}: {'Ready' if n['ready'] else 'NotReady'}" for n in facts["node_status"]),
        *(f"  pod {p['namespace']}/{p['name']} on {p['node']}: {p['phase']}{', Ready' if p['ready'] else ''}" for p in facts["pods"]),
        *(f"  accepted, not enforced: {u['kind']} {u['field']}" for u in facts["unenforced"]),
    ])  # fmt: skip
    return 0 if all(n["ready"] for n in facts["node_status"]) else 1


def _node(arguments: argparse.Namespace) -> int:
    cluster, name, start = _running(arguments.name), arguments.node, arguments.what == "start"
    _get(cluster, f"/debug/nodes/{quote(name, safe='')}/{arguments.what}", "POST")
    deadline = time.monotonic() + arguments.wait
    while arguments.wait and _is_ready(_get(cluster, f"/api/v1/nodes/{name}")) != start:
        if time.monotonic() > deadline:
            raise StartError(f"node {name} is not {'Ready' if start else 'NotReady'} after {arguments.wait:g} s")
        time.sleep(0.05)
    power = "on" if start else "off"
    _show(
        arguments.json,
        {"cluster": cluster.name, "node": name, "power": power},
        [f"{cluster.name}: node {name} is {power}"],
    )
    return 0


def _api(arguments: argparse.Namespace) -> int:
    cluster = _running(arguments.name)
    asked = urlencode({"seconds": arguments.seconds, "compact": str(arguments.compact).lower()})
    _get(cluster, f"/debug/api/restart?{asked}", "POST")
    facts = {"cluster": cluster.name, "seconds": arguments.seconds, "compact": arguments.compact}
    _show(arguments.json, facts, [f"{cluster.name}: the API is away for {arguments.seconds:g} s"])
    return 0


def _is_ready(obj: dict[str, Any]) -> bool:
    return any(
        c["type"] == "Ready" and c["status"] == "True" for c in (obj.get("status") or {}).get("conditions") or []
    )


def _kubeconfig(arguments: argparse.Namespace) -> int:
    print(_running(arguments.name).facts["kubeconfig"])
    return 0


def _list(arguments: argparse.Namespace) -> int:
    found = clusters.running()
    _show(arguments.json, [c.facts for c in found], [f"{c.name}: {c.facts['server']}" for c in found])
    return 0


def _running(name: str) -> clusters.Cluster:
    found = clusters.find(name)
    if found is None:
        others = ", ".join(c.name for c in clusters.running())
        raise StartError(f"no cluster {name} runs", f"running: {others}" if others else "pocketkube up")
    return found


def _get(cluster: clusters.Cluster, path: str, method: str = "GET") -> Any:
    token = yaml.safe_load((cluster.folder / "kubeconfig").read_text())["users"][0]["user"]["token"]
    trust = ssl.create_default_context(cafile=str(cluster.folder / "ca.pem"))
    url, headers = cluster.facts["server"] + path, {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    try:
        with opener.open(request, timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise StartError(json.load(error)["message"], f"pocketkube status --name {cluster.name}") from None
    except (urllib.error.URLError, TimeoutError) as error:
        raise StartError(
            f"the API of {cluster.name} does not answer: {error}", f"see {cluster.folder}/daemon.log"
        ) from None


def _show(as_json: bool, facts: Any, lines: list[str]) -> None:
    print(json.dumps(facts) if as_json else "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
