"""report.html: self-contained, whole, and data stays data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aftershock import report
from aftershock.errors import FolderError
from aftershock.folder import RunFolder, validate
from aftershock.report import page
from aftershock.report.anchors import Anchors
from aftershock.report.chart import Band, Moment, draw, runs, ticks
from aftershock.report.series import BINS_MAX, series, stretches
from aftershock.slo import Interval, Iteration

from .golden import make

GOLDEN = RunFolder.open(make.GOLDEN)
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr", "col"}
EVIL = "</style></title><script>alert('1')</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}&amp;\u2028"
FILES = ("run", "evidence", "invariants", "verdict", "diagnosis", "facts", "postmortem")


class Seen(HTMLParser):
    """What a parser sees of a page: elements with attributes, ids, links, text by element, and whether tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.stack: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> without a beginning"
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def copied(tmp_path: Path, *names: str) -> RunFolder:
    """A folder with these golden files, or all."""
    for path in make.GOLDEN.iterdir():
        if not names or path.name in names:
            shutil.copy(path, tmp_path)
    return RunFolder(tmp_path)


def checked(text: str) -> Seen:
    """Parse a page and check what must hold for every page."""
    seen = Seen(text)
    assert len(seen.ids) == len(set(seen.ids)), "duplicate ids"
    for attributes in seen.all("a"):
        href = attributes["href"] or ""
        assert href.startswith("#"), href
        assert href[1:] in seen.ids, href
    for tag, attributes in seen.elements:
        assert tag not in {
            "script",
            "iframe",
            "object",
            "embed",
            "link",
            "img",
            "base",
            "form",
            "image",
            "use",
            "foreignobject",
        }, tag
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            assert name not in {"style", "src", "srcset", "xlink:href", "background"}, name
            for reference in (value or "").split() if name in {"aria-labelledby", "aria-describedby"} else []:
                assert reference in seen.ids
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels)), levels
    assert len(seen.all("main")) == 1
    assert all(th.get("scope") in {"col", "row"} for th in seen.all("th"))
    assert seen.all("html") == [{"lang": "en"}]
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in seen.all("svg"))
    return seen


@pytest.fixture(scope="module")
def golden_page() -> str:
    return report.render(GOLDEN)


def test_the_golden_page_is_whole(golden_page: str) -> None:
    seen = checked(golden_page)
    for wanted in (
        "Checkout survives the loss of one payments pod",
        "all 16 findings hold", "One of two payments pods is killed", "scenarios/checkout.js",
        "requested", "recovered", "payments-6c8f7d9b5c",
         "99.38 %", "connection refused", "no lost order", "the ranking puts it first",
        "storefront does not call shipping",
        "18 of 18 claims", "포스트모템", "readOnlyRootFilesystem", make.RUN_ID, "402249d0c7a5", "seed 7",
    ):  # fmt: skip
        assert wanted in seen.text, wanted
    assert {"F001", "slo-1", "f1", "f1-observed", "invariant-no_lost_order", "ev-000033"} <= set(seen.ids)
    assert len(seen.all("svg")) == 2


def test_every_citation_links_to_its_fact(golden_page: str) -> None:
    links = [a["href"] for a in checked(golden_page).all("a")]
    for text in GOLDEN.read("postmortem.json")["language"].values():
        for section in text["sections"]:
            for sentence in section["sentences"]:
                assert all(f"#{fact}" in links for fact in sentence["facts"])


def test_nothing_outside_is_asked_for(golden_page: str) -> None:
    policy = next(
        m["content"] or "" for m in checked(golden_page).all("meta") if m.get("http-equiv") == "Content-Security-Policy"
    )
    style = golden_page.split("<style>", 1)[1].split("</style>", 1)[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "url(" not in style
    assert "@import" not in style


def test_write_puts_it_into_the_folder(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (tmp_path / "report.html").unlink()
    assert report.write(folder) == tmp_path / "report.html"
    assert folder.read_text("report.html") == report.render(folder)


def refused(tmp_path: Path) -> RunFolder:
    folder = copied(tmp_path, "run.json")
    run = folder.read("run.json")
    folder.write("run.json", {**run, "windows": {}, "cluster": None, "topology": {"calls": [], "pods": []}, "versions": {}, "images": {},
                              "unenforced": [], "git_commit": None})  # fmt: skip
    finding = {"id": "fi-01", "rule": "preflight", "outcome": "INCONCLUSIVE", "summary": "the selector matches nothing", "evidence": ["f1"],
               "hint": "check app=payments", "measured": None, "bound": None, "unit": None, "window": None}  # fmt: skip
    folder.write("verdict.json", {"verdict": "INCONCLUSIVE", "findings": [finding], "slos": [],
                                  "recovery": {"deadline_s": 15, "recovered_s": None}, "judged_at_us": make.STARTED_US})  # fmt: skip
    return folder


def test_a_refused_run_says_why_and_what_is_missing(tmp_path: Path) -> None:
    seen = checked(report.render(refused(tmp_path)))
    assert seen.text.count("the selector matches nothing") == 2
    assert "Hint: check app=payments" in seen.text
    assert seen.text.count("the run stopped before it") >= 4
    assert seen.all("svg") == []


@pytest.mark.parametrize(
    "missing", sorted(p.name for p in make.GOLDEN.iterdir() if p.name not in {"run.json", "verdict.json"})
)
def test_any_one_file_may_be_missing(tmp_path: Path, missing: str) -> None:
    folder = copied(tmp_path)
    (tmp_path / missing).unlink()
    checked(report.render(folder))


@pytest.mark.parametrize(
    "broken", sorted(p.name for p in make.GOLDEN.iterdir() if p.suffix in {".json", ".parquet", ".jsonl", ".yaml"})
)
def test_a_broken_file_is_named_on_the_page(tmp_path: Path, broken: str) -> None:
    folder = copied(tmp_path)
    folder.write_text(broken, "{<b>not this\n")
    if broken in {"run.json", "verdict.json"}:
        with pytest.raises(FolderError, match=re.escape(broken)):
            report.render(folder)
    elif broken not in {"journal.json", "metrics.parquet", "traces.parquet"}:  # the page does not read these
        text = checked(report.render(folder)).text
        assert "Files that could not be read" in text
        assert broken in text


def failed(tmp_path: Path) -> RunFolder:
    folder = copied(tmp_path)
    verdict, invariants = folder.read("verdict.json"), folder.read("invariants.json")
    verdict["verdict"] = "FAIL"
    verdict["findings"][7] |= {"outcome": "INCONCLUSIVE", "summary": "too few journeys", "hint": "raise the rate"}
    verdict["findings"][-1] |= {"outcome": "FAIL", "summary": "paid_iff_shipped: 1 order was paid twice", "hint": None}
    verdict["slos"][0]["held"], verdict["slos"][1] = False, {**verdict["slos"][1], "held": None, "measured": None}
    broken = invariants["results"][3]
    broken |= {
        "outcome": "FAIL",
        "violations": [{"order_id": f"o-{n}", "idempotency_key": None, "what": "charged twice"} for n in range(30)],
    }
    folder.write("verdict.json", verdict)
    folder.write("invariants.json", invariants)
    return folder


def test_the_worst_findings_come_first_and_words_say_it_without_colour(tmp_path: Path) -> None:
    text = report.render(failed(tmp_path))
    seen = checked(text)
    listed = re.findall(r'<li id="fi-\d+" class="(\w+)">', text)
    assert listed == ["fail", "inconclusive"] + ["pass"] * 14
    assert "1 of 16 findings is FAIL" in seen.text
    assert "and 10 more, see invariants.json" in seen.text
    assert "Hint: raise the rate" in seen.text
    assert 'class="badge fail"><span aria-hidden="true">✕</span> FAIL<' in text


def poison(folder: RunFolder, evil: str) -> int:
    """Poison each string field on its own, as long as its schema takes it; returns how many."""
    count = 0
    for name in FILES:
        document = folder.read(f"{name}.json")

        def visit(holder: Any, name: str = name, document: Any = document) -> None:
            nonlocal count
            for key in holder if isinstance(holder, dict) else range(len(holder)):
                if isinstance(holder[key], str):
                    old, holder[key] = holder[key], evil
                    try:
                        validate(name, document, name)
                        count += 1
                    except FolderError:
                        holder[key] = old
                elif isinstance(holder[key], (dict, list)):
                    visit(holder[key])

        visit(document)
        folder.write(f"{name}.json", document)
    events = [
        {**event, **dict.fromkeys(("source", "namespace", "name", "uid", "node", "service", "reason"), evil),
         "detail": {evil: evil, "n": [evil]}}
        for event in folder.lines("events.jsonl")
    ]  # fmt: skip
    folder.write_lines("events.jsonl", events)
    return count + 9 * len(events)


@pytest.fixture(scope="module")
def poisoned_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = copied(tmp_path_factory.mktemp("poison"))
    assert poison(folder, EVIL) > 400
    folder.write_text("experiment.yaml", "title: " + json.dumps(EVIL))
    return report.render(folder)


def test_untrusted_text_stays_text(poisoned_page: str) -> None:
    seen = checked(poisoned_page)
    assert "<script" not in poisoned_page
    assert "<img" not in poisoned_page
    assert "{{ 7*7 }}" in seen.text
    assert seen.text.count("<script>alert('1')</script>") > 100


def test_only_known_tags_and_attributes_come_out_of_poison(golden_page: str, poisoned_page: str) -> None:
    def shapes(text: str) -> set[tuple[str, frozenset[str]]]:
        return {(tag, frozenset(attributes)) for tag, attributes in Seen(text).elements}

    optional = {
        ("section", frozenset({"class", "aria-label"})),
        ("h2", frozenset()),
        ("span", frozenset()),
        ("ul", frozenset()),
    }  # what could not be read
    assert shapes(poisoned_page) <= shapes(golden_page) | optional


@settings(max_examples=25)
@given(st.text(max_size=40))
def test_any_text_as_a_name_keeps_the_page_whole(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = RunFolder(tmp_path_factory.getbasetemp())
    if not folder.has("verdict.json"):
        refused(folder.path)
    folder.write("run.json", {**folder.read("run.json"), "title": text, "experiment": text or "x", "weakness": text})
    checked(report.render(folder))


def test_ids_stay_unique_whatever_files_call_things() -> None:
    anchors = Anchors()
    given_ids = [anchors.add(reference) for reference in ("a.b", "a-b", "a b", "1", "<>", "", "facts")]
    assert None not in given_ids
    assert len(set(given_ids)) == len(given_ids)
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", element or "") for element in given_ids)
    assert anchors.add("a.b") is None
    assert anchors.find("a.b") == "a-b"
    assert anchors.find("1.observed") == anchors.find("1")
    assert anchors.find("other") is None


def test_duplicate_events_and_facts_make_no_duplicate_ids(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    facts, events = folder.read("facts.json"), list(folder.lines("events.jsonl"))
    folder.write("facts.json", facts + facts)
    folder.write_lines("events.jsonl", events + events)
    checked(report.render(folder))


def test_a_long_run_lists_what_is_referred_to_and_some_others(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    first = list(folder.lines("events.jsonl"))
    noise = [{**first[0], "id": f"ev-{n:06d}"} for n in range(1_000, 3_000)]
    folder.write_lines("events.jsonl", [*noise, *first])
    built = page.build(folder)
    assert len(built.events) == page.OTHER_EVENTS_MAX + sum(e["named"] for e in built.events)
    assert built.events_left_out == 2_000 + len(first) - len(built.events)
    assert "more are in events.jsonl" in checked(report.render(folder)).text


def journeys(marks: str, from_us: int = 0, step_us: int = 100_000, took_us: int = 50_000) -> list[Iteration]:
    """`.` is a success, `x` a failure, a space is nobody."""
    return [
        Iteration("checkout", from_us + n * step_us, from_us + n * step_us + took_us, mark == ".")
        for n, mark in enumerate(marks) if mark != " "
    ]  # fmt: skip


SPAN = Interval(0, 10_000_000)


def test_bins_count_every_journey_once() -> None:
    made = series(journeys("." * 50 + "x" * 50), SPAN, 5_000_000)
    assert sum(b.due for b in made.bins) == 100
    assert sum(b.failed for b in made.bins) == 50
    assert made.bins[0].from_s == -5.0
    assert made.to_s == 5.0
    assert sum(b.done_per_s for b in made.bins) * made.width_s == 50


def test_no_data_is_no_latency_and_never_a_zero() -> None:
    made = series(journeys("." * 20 + " " * 60 + "." * 20), SPAN, 0)
    assert [b.p95_ms for b in made.bins if b.due == 0] == [None] * 24
    window = stretches([], {"fault": SPAN}, 0)[0]
    assert (window.success, window.p50_ms, window.p95_ms, window.done_per_s) == (None, None, None, None)


@settings(max_examples=25)
@given(st.integers(0, 10**12), st.integers(0, 10**7))
@example(63_148_010_369, 0)  # a width that was rounded down made a bin too many
def test_there_are_never_too_many_bins(length_us: int, from_us: int) -> None:
    made = series(journeys("..x", from_us), Interval(from_us, from_us + length_us), from_us)
    assert len(made.bins) <= BINS_MAX
    assert (len(made.bins) > 0) == (length_us > 0)


def test_windows_have_their_own_figures() -> None:
    rows = stretches(
        journeys("." * 50 + "x" * 50),
        {"fault": Interval(5_000_000, 10_000_000), "baseline": Interval(0, 5_000_000)},
        5_000_000,
    )
    assert [(r.name, r.due, r.failed, r.success) for r in rows] == [("baseline", 50, 0, 1.0), ("fault", 50, 50, 0.0)]


@pytest.mark.parametrize(("made", "said"), [
    ([], "no journey failed"), (journeys("."), "no journey failed"), (journeys("x"), None), (journeys("x" * 100), None),
    (journeys("." * 30 + " " * 40 + "x" * 30), None), (journeys("." * 100, took_us=0), "no journey failed"),
    (journeys("." * 50, took_us=5_000) + journeys("." * 50, 5_000_000, took_us=9_000_000), "no journey failed"),
], ids=["none", "one", "one failure", "all failures", "a gap", "no time at all", "a wide range"])  # fmt: skip
@pytest.mark.parametrize("width", [page.WIDE, page.NARROW])
def test_the_chart_draws_what_there_is(made: list[Iteration], said: str | None, width: float) -> None:
    bands = [Band("baseline", -5.0, 0.0), Band("fault", 0.0, 5.0)]
    moments = [Moment("requested +0.00 s", 0.0, "requested"), Moment("recovered +99.00 s", 99.0, "recovered")]
    drawn = draw(series(made, SPAN, 5_000_000), bands, moments, width, "a < b", "the fault")
    root = ElementTree.fromstring(str(drawn))
    assert root.get("aria-label") == "a < b"
    texts = ["".join(t.itertext()) for t in root.iter("text")]
    assert {"fault", "requested +0.00 s", "recovered +99.00 s"} <= set(texts)
    assert ("no journey failed" in texts) == (said is not None)
    for element in root.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if (value := element.get(name)) is not None:
                assert 0 <= float(value) <= 1_000, (element.tag, name, value)
        for pair in (element.get("points") or "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= 1_000


def test_a_chart_without_bins_says_so() -> None:
    drawn = draw(series([], Interval(0, 0), 0), [], [], page.WIDE, "nothing", "the run began")
    texts = ["".join(t.itertext()) for t in ElementTree.fromstring(str(drawn)).iter("text")]
    assert texts.count("nothing was stored") == 2
    assert "no journey was due" in texts


def test_text_in_the_chart_is_escaped() -> None:
    drawn = str(
        draw(series([], SPAN, 0), [Band("fault", 0, 1)], [Moment(EVIL, 0.0, "requested")], page.WIDE, EVIL, EVIL)
    )
    assert "<script" not in drawn
    ElementTree.fromstring(drawn)


def test_a_gap_breaks_a_line() -> None:
    assert runs([(0, 1.0), (1, None), (2, 3.0), (3, 4.0), (4, None)]) == [[(0, 1.0)], [(2, 3.0), (3, 4.0)]]
    assert runs([(0, None)]) == []


@settings(max_examples=25)
@given(st.floats(min_value=1e-6, max_value=1e12), st.integers(1, 12))
def test_ticks_are_few_rising_and_reach_the_highest(highest: float, most: int) -> None:
    scale = ticks(highest, most)
    assert scale[0] == 0
    assert scale == sorted(set(scale))
    assert scale[-1] >= highest * (1 - 1e-9)
    assert len(scale) <= most + 2


@pytest.mark.parametrize("highest", [0.0, -1.0, float("nan"), float("inf")])
def test_ticks_of_nothing(highest: float) -> None:
    assert ticks(highest) == [0.0, 1.0]


def test_whole_ticks_are_whole() -> None:
    assert ticks(3, whole=True) == [0.0, 1.0, 2.0, 3.0]
    assert ticks(2.0, 4, whole=True) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("call", "said"), [
    (lambda: page.figure(None), "-"), (lambda: page.figure(0.99375, "ratio"), "99.38 %"), (lambda: page.figure(28.13, "ms"), "28.13 ms"),
    (lambda: page.figure(880), "880"), (lambda: page.figure(True), "True"), (lambda: page.figure("x", "ms"), "x ms"),
    (lambda: page.figure(0.0, "s"), "0 s"), (lambda: page.figure(1e9), "1.000e+09"), (lambda: page.offset(-0.0001), "+0.00 s"),
    (lambda: page.offset(-1.5), "-1.50 s"), (lambda: page.moment(None), "not known"), (lambda: page.moment(10**18), f"{10**18} us"),
    (lambda: page.moment(1_768_471_200_123_456), "2026-01-15 10:00:00.123 UTC"), (lambda: page.answer(None), "not known"),
    (lambda: page.answer(False), "no"),
])  # fmt: skip
def test_figures_for_people(call: Callable[[], str], said: str) -> None:
    assert call() == said


def luminance(colour: str) -> float:
    """WCAG 2.1 relative luminance of #rrggbb."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def themes() -> list[dict[str, str]]:
    style = (Path(report.__file__).parent / "style.css").read_text(encoding="utf-8")
    return [
        dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", block)) for block in re.findall(r":root\s*{([^}]*)}", style)
    ]


def test_light_dark_and_print_have_contrast() -> None:
    assert len(themes()) == 3
    for theme in themes():
        pairs = [(ink, paper) for ink in ("ink", "soft", "link") for paper in ("paper", "panel", "fault", "band")]
        pairs += [(ink, "inconclusive-paper") for ink in ("ink", "soft", "link")]  # what a link jumped to
        for outcome in ("pass", "fail", "inconclusive"):
            pairs += [
                (outcome, "paper"),
                (outcome, f"{outcome}-paper"),
                ("ink", f"{outcome}-paper"),
                ("soft", f"{outcome}-paper"),
            ]
        for ink, paper in [*pairs, ("fault-line", "fault")]:
            assert contrast(theme[ink], theme[paper]) >= 4.5, (ink, paper, theme[ink], theme[paper])
        for line in ("p50", "p95", "done", "due", "failed"):
            assert contrast(theme[line], theme["fault"]) >= 3, line
