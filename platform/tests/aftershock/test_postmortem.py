"""Postmortems of every kind of run read properly in both languages, and every sentence is what its facts say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock import facts, postmortem
from aftershock.facts import Fact
from aftershock.folder import RunFolder
from aftershock.phrases import korean, values
from aftershock.phrases.catalogue import LANGUAGES, Language, phrases
from aftershock.phrases.kinds import KINDS, SECTIONS, plan
from tests.aftershock import runs

GOLDEN = Path(__file__).parent / "golden" / "payments-pod-kill"


def weak(files: runs.Json) -> None:
    files["run.json"]["weakness"] = "payments-single-replica"


def control(files: runs.Json) -> None:
    runs.passed(files)
    files["run.json"]["expect"] = "none"
    files["evidence.json"]["faults"] = []
    files["diagnosis.json"] |= {"verdict": "no_root_cause", "ranked": [], "edges": [], "truth": None}


def drained(files: runs.Json) -> None:
    """A drain that a budget refused, as it must."""
    runs.passed(files)
    files["run.json"]["expect"] = "refused"
    node = {"kind": "Node", "namespace": None, "name": "body2", "uid": None, "node": "body2", "service": None}
    files["evidence.json"]["faults"][0] |= {"action": "node-drain", "targets": [node], "refused": "disruption budget"}
    steps = files["evidence.json"]["faults"][0]["steps"]
    steps |= {"accepted": None, "observed": None, "recovered": None}


def lost(files: runs.Json) -> None:
    violation = {"order_id": "order-0160", "idempotency_key": "key-00160", "what": "acknowledged, then gone"}
    files["invariants.json"]["results"][0] |= {"outcome": "FAIL", "violations": [violation]}
    files["evidence.json"]["activities"][0] |= {"status": "failed", "error": "timeout"}
    files["evidence.json"]["steady"]["after"] = False
    files["evidence.json"]["undo"] = {
        "pending": 0,
        "entries": [{"id": 1, "action": "x", "state": "done", "time_us": runs.T0}],
    }
    files["diagnosis.json"]["truth"] = {"entity": "shipping", "rank": 3}
    files["verdict.json"]["findings"].append(runs.finding(20, "recovery", "FAIL", "no recovery within 15 s", []))


def missed(files: runs.Json) -> None:
    """A weak twin that passes, and says so."""
    runs.passed(files)
    files["run.json"]["weakness"] = "payments-single-replica"


def crashed(files: runs.Json) -> None:
    """The runner died after the load: no evidence, but not refused."""
    runs.refused(files)
    files["verdict.json"]["findings"] = [runs.finding(1, "activities", "INCONCLUSIVE", "the run ended early", [])]


def unloaded(files: runs.Json) -> None:
    runs.inconclusive(files)
    files["evidence.json"]["load"] |= {"offered": False, "error": "connection refused"}
    files["diagnosis.json"] |= {"verdict": "inconclusive", "truth": {"entity": "payments", "rank": None}}


CASES: dict[str, Callable[[runs.Json], None] | None] = {
    "failed": None, "passed": runs.passed, "inconclusive": runs.inconclusive, "refused": runs.refused, "weak": weak, "control": control,
    "drained": drained, "lost": lost, "crashed": crashed, "unloaded": unloaded, "missed": missed,
}  # fmt: skip


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Fact]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aftershock.graph.business.ORDERS_MAX", 20)
        made = {name: facts.of(runs.write(tmp_path_factory.mktemp(name), change)) for name, change in CASES.items()}
    made["clean"] = facts.of(runs.write(tmp_path_factory.mktemp("clean"), runs.passed, failed=()))
    return made | {"golden": facts.of(RunFolder.open(GOLDEN))}


def every_wording(ledger: list[Fact], language: Language) -> str:
    catalogue = phrases(language)
    return "\n".join(catalogue.render(bound, index) for bound in plan(ledger) for index in range(3))


SAYS: list[tuple[str, str, str]] = [
    (
        "failed",
        "the success ratio of checkout was 95% over 160 journeys; the objective of 99% was missed by 4 percentage points.",
        "목표 99%는 4퍼센트포인트 차이로 지켜지지 않았습니다",
    ),
    ("failed", "in the fault window 8 of 160 checkout journeys failed, a success ratio of 95%.", "성공률은 95%"),
    ("failed", "of 400 customer journeys after the warm-up, 8 failed.", "400건 중 8건"),
    ("failed", "the longest outage of checkout in the fault window lasted 50 ms.", "최장 중단 시간은 50ms"),
    ("failed", "12:00:08.250 UTC", "12:00:08.250 UTC"),
    ("passed", "PASS", "PASS"),
    ("passed", "everything that was checked held", "지켜졌습니다"),
    ("inconclusive", "INCONCLUSIVE", "INCONCLUSIVE"),
    ("inconclusive", "“pod-kill was accepted but its effect was never observed”", "“pod-kill was accepted"),
    ("inconclusive", "“410 Gone”", "“410 Gone”"),
    ("inconclusive", "700 of 880 scheduled arrivals", "180건"),
    ("refused", "“namespace shop is not labelled for chaos”", "“namespace shop is not labelled for chaos”"),
    ("refused", "nothing was injected", "장애를 넣지 않"),
    ("weak", "“payments-single-replica”", "“payments-single-replica”"),
    ("weak", "the experiment is able to fail", "실패할 수 있음이 확인되었습니다"),
    ("missed", "its verdict is pass: the experiment is not proven to notice it", "증명되지 않았습니다"),
    ("control", "control run", "대조 실행"),
    ("drained", "“disruption budget”", "“disruption budget”"),
    ("drained", "node body2", "노드 body2"),
    ("lost", "was broken 1 time", "1번 깨졌습니다"),
    ("lost", "rank 3", "3순위"),
    ("crashed", "was injected and whether it was undone", "기록"),
    ("unloaded", "“connection refused”", "“connection refused”"),
    ("clean", "journeys in the fault window", "여정 160건"),
    ("golden", "99.38%", "99.38%"),
]


@pytest.mark.parametrize(("case", "english", "hangul"), SAYS)
def test_says(ledgers: dict[str, list[Fact]], case: str, english: str, hangul: str) -> None:
    assert hangul in every_wording(ledgers[case], "ko")
    assert english.lower() in every_wording(ledgers[case], "en").lower()


def test_what_must_not_be_said(ledgers: dict[str, list[Fact]]) -> None:
    for case, wrong in (("failed", "everything held"), ("inconclusive", "everything held"), ("passed", "violation was proven"),
                        ("crashed", "nothing was injected"), ("control", "pod kill"), ("refused", "journeys")):  # fmt: skip
        assert wrong not in every_wording(ledgers[case], "en").lower(), case


def test_every_case_reads_clean(ledgers: dict[str, list[Fact]]) -> None:
    for case, ledger in ledgers.items():
        known = {fact.id for fact in ledger}
        for text in postmortem.compose(ledger):
            assert text.sentences, case
            for sentence in text.sentences:
                assert sentence.facts
                assert set(sentence.facts) <= known
                assert not re.search(r"[{}]|None|\bnan\b|  ", sentence.text), sentence.text
                assert re.search(r"[.요다]\.?”?\.?$", sentence.text), sentence.text
                assert not re.search(r"\b1 (orders|journeys|nodes|targets|checks|times|entries)\b", sentence.text), (
                    sentence.text
                )
                if text.language == "en":
                    assert not re.search("[가-힣]", sentence.text)
            assert [section.id for section in text.sections] == [
                s for s in SECTIONS if s in {x.id for x in text.sections}
            ]


def test_every_kind_is_said_by_some_case(ledgers: dict[str, list[Fact]]) -> None:
    said = {bound.kind.name for ledger in ledgers.values() for bound in plan(ledger)}
    assert said == {kind.name for kind in KINDS}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_catalogue_is_whole(language: str) -> None:
    catalogue = phrases(language)  # type: ignore[arg-type]
    assert set(catalogue.document["kinds"]) == {kind.name for kind in KINDS}
    for kind in KINDS:
        options = catalogue.options(kind.name)
        assert len(set(options)) >= 3, kind.name
        for option in options:
            assert sorted(re.findall(r"\{(\w+)", option)) == sorted(slot.name for slot in kind.slots), option
            assert not re.search(r"\d", re.sub(r"\{[^}]*\}|p95", "", option)), "a phrasing holds a figure of its own"
    assert set(catalogue.document["headings"]) == set(SECTIONS)
    assert set(catalogue.document["terms"]) >= {f"window.{w}" for w in runs.WINDOWS}


def test_a_phrasing_differs_between_runs_but_never_for_one(ledgers: dict[str, list[Fact]]) -> None:
    assert postmortem.compose(ledgers["failed"]) == postmortem.compose(list(ledgers["failed"]))


def test_files_are_written_and_cite(tmp_path: Path) -> None:
    folder = runs.write(tmp_path)
    texts = postmortem.write(folder)
    assert postmortem.from_json(folder.read("postmortem.json")) == texts
    page = folder.read_text("postmortem.md")
    assert page.startswith("# Postmortem: Checkout survives the loss of one payments pod\n")
    assert "no model took part" in page
    cited = set(re.findall(r"F\d{3}", page.split("## Facts")[0]))
    listed = set(re.findall(r"^\| (F\d{3}) \|", page, re.M))
    assert cited == listed
    assert "# 사후 분석" in folder.read_text("postmortem.ko.md")


def test_text_from_evidence_stays_text(tmp_path: Path) -> None:
    def injected(files: runs.Json) -> None:
        runs.inconclusive(files)
        files["verdict.json"]["findings"][0]["summary"] = (
            "x” is false. [F001](http://evil) <script>\n# PASS\u202e | `rm`"
        )
        files["run.json"]["title"] = "<b>bold</b> *title*"

    folder = runs.write(tmp_path, injected)
    postmortem.write(folder)
    page = folder.read_text("postmortem.md")
    assert "<script>" not in page
    assert "\n# PASS" not in page
    assert "\u202e" not in page
    assert "[F001](" not in page
    assert "x' is false" in page  # its quotation mark cannot end ours
    assert page.startswith("# Postmortem: \\<b\\>bold\\</b\\> \\*title\\*\n")


# ---- values

NUMBERS: list[tuple[float, int, str]] = [
    (99.375, 2, "99.38"), (98.997, 2, "98.997"), (400.04, 1, "400.04"), (400, 1, "400"), (0.5, 2, "0.5"), (0.503, 2, "0.503"),
    (1234567, 0, "1,234,567"), (99.9, 2, "99.9"), (0.0, 2, "0"), (99.9999999, 2, "100"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "digits", "text"), NUMBERS)
def test_numbers(value: float, digits: int, text: str) -> None:
    assert values.number(value, digits) == text


@given(st.floats(-1e9, 1e9), st.integers(0, 3))
def test_rounding_never_moves_a_number_by_more_than_half_a_digit(value: float, digits: int) -> None:
    text = values.number(value, digits)
    decimals = len(text.partition(".")[2])
    assert abs(float(text.replace(",", "")) - value) <= 0.5 * 10**-decimals + 1e-6


@given(st.text())
def test_quotes_are_one_harmless_line(text: str) -> None:
    quoted = values.quote(text)
    assert len(quoted) <= values.QUOTE_MAX
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u200b-\u200f“”\"]", quoted)


@given(st.integers(0, 4_000_000_000_000_000))
def test_clocks_round_down(time_us: int) -> None:
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} UTC", values.clock(time_us))
    assert int(values.clock(time_us)[9:12]) == time_us % 1_000_000 // 1000


# ---- Korean particles: word, then what 은/는, 이/가, 을/를 and 으로/로 must be

PARTICLES: list[tuple[str, str, str, str, str]] = [
    ("결제", "는", "가", "를", "로"), ("주문", "은", "이", "을", "으로"), ("교실", "은", "이", "을", "로"),
    ("노드", "는", "가", "를", "로"), ("파드 종료", "는", "가", "를", "로"), ("네트워크 지연", "은", "이", "을", "으로"),
    ("판정 (결제)", "는", "가", "를", "로"), ("“유실 없음”", "은", "이", "을", "으로"), ("0", "은", "이", "을", "으로"),
    ("1", "은", "이", "을", "로"), ("2", "는", "가", "를", "로"), ("3", "은", "이", "을", "으로"),
    ("4", "는", "가", "를", "로"), ("5", "는", "가", "를", "로"), ("6", "은", "이", "을", "으로"),
    ("7", "은", "이", "을", "로"), ("8", "은", "이", "을", "로"), ("9", "는", "가", "를", "로"),
    ("10", "은", "이", "을", "으로"), ("1,000", "은", "이", "을", "으로"), ("12", "는", "가", "를", "로"),
    ("0.95", "는", "가", "를", "로"), ("1,000,000,000,000", "는", "가", "를", "로"), ("99%", "는", "가", "를", "로"),
    ("400ms", "는", "가", "를", "로"), ("15초", "는", "가", "를", "로"), ("12:00:00.000 UTC", "는", "가", "를", "로"),
    ("payments", "는", "가", "를", "로"), ("orders", "는", "가", "를", "로"), ("shipping", "은", "이", "을", "으로"),
    ("storefront", "는", "가", "를", "로"), ("catalog", "는", "가", "를", "로"), ("cart", "는", "가", "를", "로"),
    ("postgres", "는", "가", "를", "로"), ("brain", "은", "이", "을", "으로"), ("body", "는", "가", "를", "로"),
    ("memory", "는", "가", "를", "로"), ("body2", "는", "가", "를", "로"), ("k6", "는", "가", "를", "로"),
    ("locust", "는", "가", "를", "로"), ("pod", "는", "가", "를", "로"), ("PASS", "는", "가", "를", "로"),
    ("FAIL", "은", "이", "을", "로"), ("INCONCLUSIVE", "는", "가", "를", "로"), ("SLO", "는", "가", "를", "로"),
    ("URL", "은", "이", "을", "로"), ("pocket", "은", "이", "을", "으로"), ("v1.34.0", "은", "이", "을", "으로"),
    ("kernel", "은", "이", "을", "로"), ("timeline", "은", "이", "을", "으로"), ("", "는", "가", "를", "로"),
]  # fmt: skip


@pytest.mark.parametrize(("word", "topic", "subject", "object_", "by"), PARTICLES)
def test_particles(word: str, topic: str, subject: str, object_: str, by: str) -> None:
    assert [korean.particle(word, pair) for pair in ("은", "이", "을", "으로")] == [topic, subject, object_, by]


@given(st.text())
def test_any_word_gets_a_particle(word: str) -> None:
    for pair, forms in korean.PAIRS.items():
        assert korean.particle(word, pair) in forms


@given(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3))
def test_hangul_follows_its_final_consonant(syllable: str) -> None:
    assert korean.particle(syllable, "은") == ("는" if (ord(syllable) - 0xAC00) % 28 == 0 else "은")
