"""`pocketkube`: start, look at and end clusters. Data on stdout, progress on stderr; 0 done, 1 not done, 254 bad arguments."""

from __future__ import annotations

import argparse
import json
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pocketkube import clusters
from pocketkube.errors import StartError

EXAMPLES = """\
examples:
  pocketkube up --images gitops/apps/pocket/images.yaml     start four nodes: brain, body, body2, memory
  export KUBECONFIG=$(pocketkube kubeconfig)                then kubectl, the kubernetes client and chaos tools work
  kubectl apply -k gitops/apps/pocket                       (Secrets first, see docs/contracts.md)
  pocketkube up --name second --nodes brain,body --json     another cluster beside it, facts as JSON
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
    down = command("down", _down, "end a cluster and everything it started, a killed one's leftovers included")
    status = command("status", _status, "what runs in a cluster; 1 if it does not run")
    command("kubeconfig", _kubeconfig, "print the path of a cluster's kubeconfig")
    everything = command("list", _list, "clusters of this user that run")
    for each in (up, down, status, everything):
        each.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _up(arguments: argparse.Namespace) -> int:
    if arguments.images is not None and not arguments.images.is_file():
        raise StartError(f"there is no file {arguments.images}", "for the shop it is gitops/apps/pocket/images.yaml")
    stages = {"images": "claiming an address", "processes": "starting processes", "nodes": "waiting for nodes"}
    cluster, fresh = clusters.up(
        clusters.checked(arguments.name), [n for n in arguments.nodes.split(",") if n], arguments.images,
        lambda text: print(f"pocketkube {arguments.name}: {stages.get(text, text)}", file=sys.stderr), arguments.owner,
    )  # fmt: skip
    wanted = str(arguments.images.resolve()) if arguments.images else cluster.facts["images"]
    if not fresh and wanted != cluster.facts["images"]:
        print(f"warning: {arguments.name} runs already, with the images of {cluster.facts['images']}\n"
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

    def ready(obj: dict[str, Any]) -> bool:
        return any(
            c["type"] == "Ready" and c["status"] == "True" for c in (obj.get("status") or {}).get("conditions") or []
        )

    facts = {
        **cluster.facts,
        "node_status": [{"name": n["metadata"]["name"], "ready": ready(n)} for n in nodes],
        "pods": [{"namespace": p["metadata"]["namespace"], "name": p["metadata"]["name"], "node": p["spec"].get("nodeName"),
                  "phase": p["status"].get("phase"), "ready": ready(p), "ip": p["status"].get("podIP")} for p in pods],
        "unenforced": _get(cluster, "/debug/unenforced")["unenforced"],
    }  # fmt: skip
    _show(arguments.json, facts, [
        f"{cluster.name}: {cluster.facts['server']}",
        *(f"  node {n['name']}: {'Ready' if n['ready'] else 'NotReady'}" for n in facts["node_status"]),
        *(f"  pod {p['namespace']}/{p['name']} on {p['node']}: {p['phase']}{', Ready' if p['ready'] else ''}" for p in facts["pods"]),
        *(f"  accepted, not enforced: {u['kind']} {u['field']}" for u in facts["unenforced"]),
    ])  # fmt: skip
    return 0 if all(n["ready"] for n in facts["node_status"]) else 1


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


def _get(cluster: clusters.Cluster, path: str) -> Any:
    token = yaml.safe_load((cluster.folder / "kubeconfig").read_text())["users"][0]["user"]["token"]
    trust = ssl.create_default_context(cafile=str(cluster.folder / "ca.pem"))
    request = urllib.request.Request(cluster.facts["server"] + path, headers={"Authorization": f"Bearer {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    try:
        with opener.open(request, timeout=5) as answer:
            return json.load(answer)
    except (urllib.error.URLError, TimeoutError) as error:
        raise StartError(
            f"the API of {cluster.name} does not answer: {error}", f"see {cluster.folder}/daemon.log"
        ) from None


def _show(as_json: bool, facts: Any, lines: list[str]) -> None:
    print(json.dumps(facts) if as_json else "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
