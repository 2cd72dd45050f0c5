"""The command line: data to stdout, progress and logs to stderr, and the only place that prints results or exits.

Exit codes: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 254 wrong arguments or file, 255 own crash, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from aftershock import __version__, models
from aftershock.errors import AftershockError, BadInput, FolderError, Refused
from aftershock.progress import Terminal
from aftershock.settings import Settings, settings

BAD_INPUT, CRASH, INTERRUPTED = 254, 255, 130

EXAMPLES = """examples:
  aftershock demo                                            a local cluster, the shop, four experiments, one table
  aftershock testbed up                                      a local cluster with the shop, for the next ones
  aftershock check experiments/payments-pod-kill.yaml        what exactly would be hit; changes nothing
  aftershock run experiments/payments-pod-kill.yaml          on the local cluster
  aftershock run experiments/*.yaml --on CONTEXT --unleash   on a cluster of your kubeconfig
  aftershock run experiments/payments-pod-kill.yaml --weak   its weak twin, which must FAIL
  aftershock verify payments-pod-kill                        every claim of the newest postmortem, checked again
  aftershock undo                                            take back whatever a killed run left behind

exit codes: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 254 wrong arguments or file, 255 own crash, 130 Ctrl-C"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise BadInput(message, hint=f"{self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    main = _Parser("aftershock", description="The honest chaos gate: PASS, FAIL or INCONCLUSIVE from evidence.",
                   epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    main.add_argument("--version", action="version", version=f"aftershock {__version__}")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(
        name: str, does: Callable[[argparse.Namespace, Settings], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: {example}"
        )
        added.set_defaults(does=does)
        added.add_argument("--json", action="store_true", help="one JSON document on stdout")
        added.add_argument(
            "--reports", type=Path, default=Path("reports"), metavar="DIR", help="where runs are kept (reports)"
        )
        return added

    def on(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--on", default="pocket", metavar="CLUSTER", help="pocket (default), pocket:NAME or a kubeconfig context"
        )

    def reads(added: argparse.ArgumentParser, what: str) -> None:
        added.add_argument("--graph", metavar="GRAPH", help=f"{what} the graph in this file or at neo4j://HOST")

    def writes(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--graph",
            metavar="GRAPH",
            help="a file, or neo4j://HOST with NEO4J_USER and NEO4J_PASSWORD (REPORTS/graph.lbug)",
        )
        added.add_argument(
            "--model", type=models.named, default="embedded", metavar="MODEL", help=f"who picks phrasings: {models.FORMS} (embedded)"
        )  # fmt: skip

    run = command("run", _run, "run experiments and judge them", "aftershock run experiments/payments-pod-kill.yaml")
    run.add_argument("experiments", nargs="+", type=Path, metavar="EXPERIMENT")
    on(run)
    run.add_argument(
        "--unleash", action="store_true", help="allow faults on a cluster that pocketkube did not start for you"
    )
    run.add_argument(
        "--weak", action="store_true", help="run the weak twin: the same file with its named weakness switched on"
    )
    run.add_argument("--repeat", type=int, default=1, metavar="N", help="run each N times (1)")
    run.add_argument(
        "--load-on",
        choices=("runner", "cluster"),
        help="where the load generator runs: here (runner) or in pods (the file's runs_on, else runner)",
    )
    run.add_argument("--rate", type=float, metavar="PER_S", help="offer another rate than the file's")
    writes(run)
    check = command(
        "check",
        _check,
        "say what exactly would be hit, and change nothing",
        "aftershock check experiments/body2-drain.yaml",
    )
    check.add_argument("experiments", nargs="+", type=Path, metavar="EXPERIMENT")
    on(check)
    check.add_argument("--unleash", action="store_true", help="as for run")
    undo = command("undo", _undo, "take back what killed runs left behind", "aftershock undo --on pocket")
    on(undo)
    undo.add_argument(
        "--wait", type=float, metavar="S", help="seconds that each may take to be seen undone (30, a node 120)"
    )
    undo.add_argument(
        "--forget", action="store_true", help="faults of an earlier cluster of the same name went with it"
    )
    diagnose = command("diagnose", _diagnose, "rank root causes of run or case folders, from observations alone",
                       "aftershock diagnose reports/payments-latency/latest --json")  # fmt: skip
    diagnose.add_argument("folders", nargs="+", metavar="RUN")
    post = command("postmortem", _postmortem, "write graph, diagnosis, postmortem and report of a run anew",
                   "aftershock postmortem payments-pod-kill --model none")  # fmt: skip
    post.add_argument("run", metavar="RUN")
    writes(post)
    verify = command(
        "verify",
        _verify,
        "check every claim of a postmortem against the run again",
        "aftershock verify payments-pod-kill",
    )
    verify.add_argument("run", metavar="RUN")
    reads(verify, "take the facts from")
    report = command(
        "report", _report, "write report.html and junit.xml of a run anew", "aftershock report payments-pod-kill"
    )
    report.add_argument("run", metavar="RUN")
    reads(command("history", _history, "list the runs", "aftershock history --json"), "list the newest runs of")
    compare = command(
        "compare", _compare, "two runs side by side", "aftershock compare payments-pod-kill payments-latency"
    )
    compare.add_argument("first", metavar="A")
    compare.add_argument("second", metavar="B")
    reads(compare, "compare runs of")
    bed = command("testbed", _testbed, "start or end a local cluster with the shop on it", "aftershock testbed up")
    bed.add_argument("verb", choices=("up", "down"))
    graph = command("graph", _graph, "make the graph anew from the run folders, or bring runs to a graph server",
                    "aftershock graph sync --graph neo4j://graph.example")  # fmt: skip
    graph.add_argument("verb", choices=("rebuild", "sync"))
    graph.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="PATH",
        help="sync: a folder of runs, a run, or a graph file (REPORTS)",
    )
    graph.add_argument("--graph", metavar="URL", help="sync: the server, neo4j://HOST (AFTERSHOCK_GRAPH)")
    graph.add_argument("--again", action="store_true", help="sync: write also what the server holds already")
    demo = command(
        "demo",
        _demo,
        "start a local cluster, deploy the shop, run four experiments, print one table",
        "aftershock demo",
    )
    demo.add_argument(
        "--only", action="append", metavar="NAME", help="run just this experiment of the four (may be repeated)"
    )
    writes(demo)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        chosen = parser().parse_args(arguments)
        return int(chosen.does(chosen, settings()))
    except BadInput as error:
        return _complain(error, BAD_INPUT)
    except FolderError as error:
        return _complain(error, BAD_INPUT)
    except (Refused, AftershockError) as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        print("interrupted: everything that was started has been ended and undone", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except Exception:
        traceback.print_exc()
        print("error: this is a fault of aftershock itself\nhint: report it with the lines above", file=sys.stderr)
        return CRASH


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _complain(error: AftershockError, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return code


def _graph_url(chosen: argparse.Namespace, configured: Settings) -> str:
    from aftershock.graph import address

    text = str(chosen.graph or configured.graph_url or chosen.reports / "graph.lbug")
    return address.checked(text) if address.is_server(text) else text


def _run(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import experiment, render, run
    from aftershock.between import Between

    if chosen.repeat < 1 or chosen.repeat > 1000:
        raise BadInput("--repeat takes 1 to 1000")
    tested = [experiment.load(path) for path in chosen.experiments]
    if chosen.rate is not None:
        if not 0 <= chosen.rate <= 10_000:
            raise BadInput("--rate takes 0 to 10000 iterations a second")
        tested = [t.with_rate(chosen.rate) for t in tested]
    if chosen.weak and (strong := [t.name for t in tested if t.weak_twin is None]):
        raise BadInput(
            f"{', '.join(strong)}: has no weak_twin", hint="name one in the file, under extensions aftershock"
        )
    order = [one for one in tested for _ in range(chosen.repeat)]
    options = run.Options(
        chosen.on,
        chosen.reports,
        chosen.unleash,
        chosen.weak,
        _graph_url(chosen, configured),
        chosen.model,
        chosen.load_on,
        Between() if len(order) > 1 else None,
    )
    rows = []
    with Terminal(no_color=configured.no_color) as terminal:
        for one in order:
            terminal.headline(one.name + (" (weak)" if chosen.weak else ""))
            rows.append(render.row(run.run(one, options, configured, terminal)))
    _print(chosen, [r.document() for r in rows], lambda: render.table(rows, configured.no_color))
    return max((r.exit_code for r in rows), key=lambda c: (1, 2, 0).index(c) * -1)


def _check(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import experiment, run

    plans = [run.check(experiment.load(path), chosen.on, chosen.unleash, configured) for path in chosen.experiments]
    _print(chosen, [p.document() for p in plans], lambda: print("\n\n".join(p.describe() for p in plans)))
    return 0 if all(p.may_fire for p in plans) else 2


def _undo(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import leftovers

    done = leftovers.undo(chosen.on, configured, wait_s=chosen.wait, forget=chosen.forget)
    lines = [f"{d['state']:8} {d['action']} of {d['run']}: {d['error'] or d['what']}" for d in done]
    _print(chosen, done, lambda: print("\n".join(lines) or "nothing to undo"))
    if all(d["state"] == "done" for d in done):
        return 0
    print("hint: what is not done stays in the journal, and runs are refused until it is; put right what kept it"
          " (fresh credentials, a node that is back), then run `aftershock undo` again", file=sys.stderr)  # fmt: skip
    return 2


def _diagnose(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import conclude

    for text in chosen.folders:
        document = conclude.diagnose_any(chosen.reports, text)
        print(json.dumps(document) if chosen.json else conclude.describe_diagnosis(text, document), flush=True)
    return 0


def _postmortem(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import conclude
    from aftershock.folder import RunFolder

    folder = RunFolder.find(chosen.reports, chosen.run)
    with Terminal(no_color=configured.no_color) as terminal:
        conclude.conclude(folder, _graph_url(chosen, configured), chosen.model, terminal)
    path = folder.path / "postmortem.md"
    _print(chosen, {"postmortem": str(path)}, lambda: print(path.read_text(encoding="utf-8")))
    return 0


def _verify(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import facts, graph, past, verify
    from aftershock.folder import RunFolder

    folder, ledger = RunFolder.find(chosen.reports, chosen.run), None
    if chosen.graph:
        with graph.open(chosen.graph, read_only=True) as held:
            ledger = facts.facts(held, past.find(held, folder.read("run.json")["run_id"]))
    result = verify.verify(folder, ledger)
    failures = [str(f) for f in result.failures]
    document = {"claims": result.claims, "supported": result.supported, "failures": failures}
    _print(
        chosen,
        document,
        lambda: print("\n".join([f"{result.supported} of {result.claims} claims supported", *failures])),
    )
    return 0 if result.claims and result.supported == result.claims and not failures else 1


def _report(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import junit, report
    from aftershock.folder import RunFolder

    folder = RunFolder.find(chosen.reports, chosen.run)
    paths = [str(report.write(folder)), str(junit.write(folder))]
    _print(chosen, paths, lambda: print("\n".join(paths)))
    return 0


def _history(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import graph, past, render

    if chosen.graph:
        with Terminal(no_color=configured.no_color) as terminal, graph.open(chosen.graph, read_only=True) as held:
            rows = past.history(held, terminal)
    else:
        rows = render.history(chosen.reports)
    _print(chosen, [r.document() for r in rows], lambda: render.table(rows, configured.no_color))
    return 0


def _compare(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import graph, past, render
    from aftershock.folder import RunFolder

    if chosen.graph:
        with graph.open(chosen.graph, read_only=True) as held:
            compared = render.side_by_side(
                *(past.figures(held, past.find(held, t)) for t in (chosen.first, chosen.second))
            )
    else:
        compared = render.compare(*(RunFolder.find(chosen.reports, text) for text in (chosen.first, chosen.second)))
    _print(chosen, compared, lambda: render.comparison(compared, configured.no_color))
    return 0


def _testbed(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import demo, testbed

    bed = testbed.Testbed.of(demo.project_folder(), "testbed")
    if chosen.verb == "down":
        bed.down()
        return 0
    with Terminal(no_color=configured.no_color) as terminal:
        cluster = testbed.start(bed, configured, terminal, owned=False)
    known = {"on": testbed.on(cluster), "storefront": cluster.service_url("shop", "storefront", "http")}
    _print(chosen, known, lambda: print(f"--on {known['on']}\nstorefront {known['storefront']}"))
    return 0


def _graph(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import graph

    if chosen.verb == "sync":
        return _sync(chosen, configured)
    count, skipped = graph.rebuild(chosen.reports)
    for line in skipped:
        print(f"left out: {line}", file=sys.stderr)
    _print(chosen, {"runs": count, "left_out": list(skipped)}, lambda: print(f"{count} runs"))
    return 0 if not skipped else 2


def _sync(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import graph
    from aftershock.graph import address, sync

    url = _graph_url(chosen, configured)
    if not address.is_server(url):
        raise BadInput("sync needs the URL of a graph server: --graph neo4j://HOST, or AFTERSHOCK_GRAPH",
                       hint="the embedded graph is made anew by `aftershock graph rebuild`")  # fmt: skip
    with Terminal(no_color=configured.no_color) as terminal, graph.open_server(url) as target:
        runs = sync.source(chosen.source or chosen.reports)
        try:
            done = sync.sync(runs, target, terminal, again=chosen.again)
        finally:
            runs.close()
    for one in done:
        if one.error and not chosen.json:
            print(f"failed: {one.run}: {one.error}", file=sys.stderr)
    counts = sync.counted(done)
    _print(
        chosen,
        {"graph": url, **sync.document(done)},
        lambda: print(", ".join(f"{n} {state}" for state, n in counts.items())),
    )
    return 2 if counts["failed"] else 0


def _demo(chosen: argparse.Namespace, configured: Settings) -> int:
    from aftershock import demo, render

    with Terminal(no_color=configured.no_color) as terminal:
        rows = demo.run(chosen.reports, _graph_url(chosen, configured), chosen.model, chosen.only, configured, terminal)
    _print(chosen, [r.document() for r in rows], lambda: render.table(rows, configured.no_color))
    return 0 if rows and all(r.as_it_must for r in rows) else 1


def _print(chosen: argparse.Namespace, document: Any, people: Callable[[], None]) -> None:
    if chosen.json:
        print(json.dumps(document, indent=1))
    else:
        people()


if __name__ == "__main__":
    sys.exit(main())
