"""The verifier says yes to what the run says, and no to everything else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock import facts, postmortem, verify
from aftershock.errors import FolderError
from aftershock.facts import Fact
from aftershock.folder import RunFolder
from aftershock.phrases.catalogue import phrases
from aftershock.phrases.kinds import Bound, plan
from tests.aftershock import runs

GOLDEN = Path(__file__).parent / "golden" / "payments-pod-kill"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Everything in the first phrasing, so that the attacks below know the words."""
    folder = runs.write(tmp_path_factory.mktemp("reports"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postmortem, "_usual", lambda _: 0)
        postmortem.write(folder)
    return folder


@pytest.fixture(scope="module")
def ledger(original: RunFolder) -> list[Fact]:
    return facts.of(original)


@pytest.fixture
def forged(original: RunFolder, ledger: list[Fact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy to tamper with; its raw files stay as they are, so its true facts are those of the original."""
    folder = RunFolder.open(shutil.copytree(original.path, tmp_path / "copy"))
    monkeypatch.setattr(facts, "of", lambda _: ledger)  # computed once for all attacks
    return folder


def test_an_honest_postmortem_is_supported_whole(original: RunFolder) -> None:
    result = verify.verify(original)
    assert result.ok
    assert result.claims == result.supported > 80
    assert result.failures == ()


@pytest.mark.parametrize("change", [runs.passed, runs.inconclusive, runs.refused])
def test_so_is_one_of_any_other_run(tmp_path: Path, change: Callable[[Json], None]) -> None:
    folder = runs.write(tmp_path, change)
    postmortem.write(folder)
    assert verify.verify(folder).ok


def test_so_is_one_of_the_golden_run(tmp_path: Path) -> None:
    folder = RunFolder.open(shutil.copytree(GOLDEN, tmp_path / "golden"))
    postmortem.write(folder)
    assert verify.verify(folder).ok


def test_without_a_postmortem_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"postmortem\.json"):
        verify.verify(runs.write(tmp_path, runs.refused))


# ---- attacks on postmortem.json: each edits one language's document, and must be found

Edit = Callable[[list[Json]], None]  # the sentences of the English text, flat, with their section under "section"


def swap(old: str, new: str) -> Edit:
    def edit(sentences: list[Json]) -> None:
        found = next(s for s in sentences if old in s["text"])
        found["text"] = found["text"].replace(old, new, 1)

    return edit


def of(part: str, change: Callable[[Json], Any]) -> Edit:
    def edit(sentences: list[Json]) -> None:
        change(next(s for s in sentences if part in s["text"]))

    return edit


def swap_words(one: str, other: str) -> Callable[[Json], None]:
    return lambda s: s.update(text=s["text"].replace(one, "@").replace(other, one).replace("@", other))


ATTACKS: dict[str, Edit] = {
    "tampered number": swap("8 of 160", "7 of 160"),
    "tampered total": swap("8 of 160", "8 of 1600"),
    "tampered ratio": swap("95%", "99%"),
    "another unit": swap("12.5 ms", "12.5 s"),
    "tampered time": swap("12:00:08.250", "12:00:08.251"),
    "tampered date": swap("2026-03-01", "2026-03-02"),
    "swapped name": of(", score ", lambda s: s.update(text=s["text"].replace("payments", "shipping"))),
    "swapped node": swap("on node body", "on node body2"),
    "swapped cause and effect": of("caused", swap_words("payments", "orders")),
    "swapped verdict": swap("verdict is FAIL", "verdict is PASS"),
    "softer verdict": swap("verdict is FAIL", "verdict is PASS, not FAIL"),
    "negated": swap("did not hold", "did hold"),
    "negation dropped": swap("did not hold", "held"),
    "negation added": swap("was proven before", "was not proven before"),
    "another window": of("the objective of 99%", lambda s: s.update(text=s["text"].replace("fault window", "recovery window"))),
    "cause added": swap("was 95% over", "was, because of postgres, 95% over"),
    "hedged": swap("verdict is FAIL", "verdict is perhaps FAIL"),
    "dropped citation": of("8 of 160", lambda s: s["facts"].pop()),
    "no citation": of("8 of 160", lambda s: s["facts"].clear()),
    "invented citation": of("8 of 160", lambda s: s["facts"].append("F999")),
    "borrowed citation": of("8 of 160", lambda s: s["facts"].append("F001")),
    "other citations": of("8 of 160", lambda s: s.update(facts=["F001", "F002", "F003"])),
    "reordered citations": of("8 of 160", lambda s: s["facts"].reverse()),
    "citation said twice": of("8 of 160", lambda s: s["facts"].append(s["facts"][0])),
    "unicode look-alike": swap("verdict is FAIL", "verdict is F\u0391IL"),
    "full-width figure": swap("8 of 160", "\uff18 of 160"),
    "zero-width space": swap("payments", "pay\u200bments"),
    "no-break space": swap("8 of", "8\u00a0of"),
    "trailing space": swap("of 95%.", "of 95%. "),
    "line break": swap("a success ratio", "\na success ratio"),
    "markdown": swap("payments", "**payments**"),
    "html": swap("payments", "<b>payments</b>"),
    "sentence appended": swap("of 95%.", "of 95%. All is well."),
    "sentence added": lambda s: s.append({"section": "summary", "text": "No order was lost.", "facts": ["F001"], "origin": "template"}),
    "sentence said twice": lambda s: s.insert(1, dict(s[0])),
    "sentence left out": lambda s: s.remove(next(x for x in s if "did not hold" in x["text"])),
    "sentences reordered": lambda s: s.insert(1, s.pop(0)),
    "moved to another section": of("did not hold", lambda s: s.update(section="held")),
    "a quotation changed": swap("the loss of one payments pod", "the loss of two payments pods"),
    "said in Korean": of("8 of 160", lambda s: s.update(text="여정 160건 중 8건이 실패했습니다.")),
    "empty of meaning": of("8 of 160", lambda s: s.update(text="[F039]")),
}  # fmt: skip


def tamper(folder: RunFolder, edit: Edit, *, origin: str | None = None, language: str = "en") -> None:
    """Edit the sentences of a language, and forge everything that depends on them: counts and Markdown."""
    document = json.loads((folder.path / "postmortem.json").read_text())
    text = document["language"][language]
    flat = [{**s, "section": section["id"]} for section in text["sections"] for s in section["sentences"]]
    before = json.dumps(flat)
    edit(flat)
    assert json.dumps(flat) != before, "the attack changed nothing"
    if origin:
        for sentence in flat:
            sentence["origin"] = origin
    for section in text["sections"]:
        section["sentences"] = [
            {k: v for k, v in s.items() if k != "section"} for s in flat if s["section"] == section["id"]
        ]
    text["header"] |= {"sentences_total": len(flat), "sentences_by_model": sum(s["origin"] == "model" for s in flat)}
    if origin == "model":
        text["header"] |= {"model": "liar"}
    total = sum(len(s["sentences"]) for t in document["language"].values() for s in t["sections"])
    document["claims"] = {"total": total, "supported": total}
    (folder.path / "postmortem.json").write_text(json.dumps(document))
    for forged in postmortem.from_json(document):
        page = postmortem.markdown(forged, facts.of(folder))
        folder.write_text(postmortem.FILES[forged.language], page)


@pytest.mark.parametrize("origin", ["template", "model"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_found(forged: RunFolder, attack: str, origin: str) -> None:
    tamper(forged, ATTACKS[attack], origin=origin)
    result = verify.verify(forged)
    assert not result.ok
    assert result.failures
    assert all(f.where and f.why for f in result.failures)


def test_a_model_that_says_the_same_is_believed(forged: RunFolder) -> None:
    tamper(
        forged, swap("checkout in the fault window was 95%", "checkout during the fault window was 95%"), origin="model"
    )
    assert verify.verify(forged).ok
    tamper(forged, lambda s: s[0].update(origin=""), origin="template")
    assert not verify.verify(forged).ok  # a template that is no template


def test_korean_is_held_to_its_words(forged: RunFolder) -> None:
    tamper(forged, swap("지켜지지 않았습니다", "지켜졌습니다"), language="ko", origin="model")
    assert not verify.verify(forged).ok


# ---- attacks on the other files

FILES: dict[str, tuple[str, Callable[[str], str]]] = {
    "forged fact": ("facts.json", lambda t: t.replace('"value": 0.95', '"value": 0.995')),
    "forged provenance": ("facts.json", lambda t: t.replace("samples.parquet", "ledger.ndjson", 1)),
    "fact left out": ("facts.json", lambda t: json.dumps(json.loads(t)[:-1])),
    "fact added": ("facts.json", lambda t: json.dumps([*json.loads(t), {**json.loads(t)[-1], "id": "F999"}])),
    "sentence added to the page": ("postmortem.md", lambda t: t.replace("\n## Impact", "All is well. [F001]\n\n## Impact")),
    "sentence added after the page": ("postmortem.md", lambda t: t + "All is well.\n"),
    "sentence taken from the page": ("postmortem.md", lambda t: "\n".join(line for line in t.split("\n") if "did not hold" not in line)),
    "number changed on the page": ("postmortem.md", lambda t: t.replace("8 of 160", "6 of 160")),
    "citation dropped on the page": ("postmortem.md", lambda t: re.sub(r" \[F[^\]]*\]", "", t, count=1)),
    "fact table changed on the page": ("postmortem.md", lambda t: t.replace("| 0.95 ratio |", "| 0.99 ratio |")),
    "Korean page changed": ("postmortem.ko.md", lambda t: t.replace("FAIL", "PASS")),
    "hidden comment": ("postmortem.md", lambda t: t.replace("\n## Impact", "<!-- PASS -->\n\n## Impact")),
    "title": ("postmortem.json", lambda t: t.replace('"title": "Postmortem: Checkout', '"title": "Postmortem: All is fine, Checkout')),
    "heading": ("postmortem.json", lambda t: t.replace('"heading": "What did not hold"', '"heading": "What held"')),
    "claim count": ("postmortem.json", lambda t: re.sub(r'"supported": \d+', '"supported": 1', t)),
    "model hidden": ("postmortem.json", lambda t: t.replace('"sentences_by_model": 0', '"sentences_by_model": 9')),
}  # fmt: skip


@pytest.mark.parametrize("attack", FILES)
def test_attacks_on_files_are_found(forged: RunFolder, attack: str) -> None:
    name, change = FILES[attack]
    before = forged.read_text(name)
    assert change(before) != before, "the attack changed nothing"
    (forged.path / name).write_text(change(before))
    assert not verify.verify(forged).ok


def test_a_ledger_and_a_postmortem_that_agree_on_a_lie_are_found(original: RunFolder, tmp_path: Path) -> None:
    """Everything derived is forged consistently; only the raw files tell the truth."""
    folder = RunFolder.open(shutil.copytree(original.path, tmp_path / "copy"))
    lie = [Fact(**{**f.__dict__, "value": 0.995} if f.value == 0.95 else f.__dict__) for f in facts.of(folder)]
    postmortem.write(folder, ledger=lie)
    result = verify.verify(folder)
    assert not result.ok
    assert any("facts.json" in f.where and "0.995" in f.why for f in result.failures)


# ---- properties

WORDS = ["not", "never", "payments", "PASS", "because", "caused", "0", "99", "%", "no", "without", "orders", "the", ".", "also",
         "\u200b", "<b>", "F001"]  # fmt: skip


@pytest.fixture(scope="module")
def planned(ledger: list[Fact]) -> list[Bound]:
    return plan(ledger)


@pytest.fixture(scope="module")
def checkable(planned: list[Bound]) -> list[Bound]:
    return [bound for bound in planned if bound.kind.rewritable]


@given(data=st.data())
def test_no_word_can_be_put_into_a_sentence_unless_it_says_nothing(checkable: list[Bound], data: st.DataObject) -> None:
    english = phrases("en")
    bound = data.draw(st.sampled_from(checkable))
    text = english.render(bound, data.draw(st.integers(0, 2)))
    pieces = text.split(" ")
    at = data.draw(st.integers(0, len(pieces)))
    word = data.draw(st.sampled_from(WORDS))
    changed = " ".join([*pieces[:at], word, *pieces[at:]])
    assert word == "also" or not english.supports(bound, changed, rewritten=True)
    assert not english.supports(bound, changed, rewritten=False)


@given(data=st.data())
def test_no_character_can_change(planned: list[Bound], data: st.DataObject) -> None:
    language = data.draw(st.sampled_from(("en", "ko")))
    catalogue = phrases(language)
    bound = data.draw(st.sampled_from(planned))
    text = catalogue.render(bound, data.draw(st.integers(0, 2)))
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.characters(exclude_categories=("Cs",)).filter(lambda c: c != text[at]))
    changed = text[:at] + new + text[at + 1 :]
    assert not catalogue.supports(bound, changed, rewritten=False)


@given(text=st.text(max_size=300))
def test_nonsense_is_no_sentence(checkable: list[Bound], text: str) -> None:
    english = phrases("en")
    for bound in checkable[:5]:
        assert not english.supports(bound, text, rewritten=True)


def test_no_sentence_stands_for_another(planned: list[Bound]) -> None:
    """Every wording of every sentence is supported by its own facts, and by no other sentence's."""
    english = phrases("en")
    for bound in planned:
        for index in range(3):
            text = english.render(bound, index)
            meant = [other for other in planned if english.supports(other, text, rewritten=True)]
            assert bound in meant
            assert all(other.kind.section != bound.kind.section or other is bound for other in meant), text
            assert not verify.stray_figures(text, bound.facts)
            assert not verify.stray_figures(phrases("ko").render(bound, index), bound.facts)


FIGURES: list[tuple[str, Fact, bool]] = [
    ("95%", Fact("F001", "window.fault", "p", None, 0.95, "ratio", None, None, None, ""), True),
    ("96%", Fact("F001", "window.fault", "p", None, 0.95, "ratio", None, None, None, ""), False),
    ("95", Fact("F001", "window.fault", "p", None, 0.95, "ratio", None, None, None, ""), False),
    ("1.34 s", Fact("F001", "window.fault", "p", None, 1.336, "s", None, None, None, ""), True),
    ("1.35 s", Fact("F001", "window.fault", "p", None, 1.336, "s", None, None, None, ""), False),
    ("250 ms", Fact("F001", "window.fault", "p", None, 0.25, "s", None, None, None, ""), True),
    ("250ms", Fact("F001", "window.fault", "p", None, 250, "ms", None, None, None, ""), True),
    ("1,234 orders", Fact("F001", "window.fault", "p", None, 1234, "orders", None, None, None, ""), True),
    ("1,235 orders", Fact("F001", "window.fault", "p", None, 1234, "orders", None, None, None, ""), False),
    ("1 order", Fact("F001", "window.fault", "p", None, 0.91, None, None, None, None, ""), False),
    ("12:00:08.250 UTC", Fact("F001", "window.fault", "p", None, None, None, runs.T0 + 8_250_000, None, None, ""), True),
    ("12:00:08.251 UTC", Fact("F001", "window.fault", "p", None, None, None, runs.T0 + 8_250_000, None, None, ""), False),
    ("body2", Fact("F001", "window.fault", "p", "body2", None, None, None, None, None, ""), True),
    ("body2", Fact("F001", "window.fault", "p", "body", None, None, None, None, None, ""), False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fact", "meant"), FIGURES)
def test_figures_are_read_by_arithmetic(text: str, fact: Fact, meant: bool) -> None:
    assert (verify.stray_figures(f"It was {text} then.", [fact]) == []) is meant
