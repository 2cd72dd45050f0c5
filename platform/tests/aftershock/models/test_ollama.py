"""A model on an Ollama server may be absent, slow, broken or hostile: no fact, claim or verdict hangs on it."""

from __future__ import annotations

import gzip
import itertools
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aftershock import models, postmortem, report, verify
from aftershock.errors import BadInput, ModelError
from aftershock.facts import Fact
from aftershock.folder import RunFolder
from aftershock.models import Limits, address
from aftershock.models import ollama as servers
from aftershock.models.ollama import Ollama
from aftershock.phrases.catalogue import phrases
from aftershock.phrases.kinds import plan
from tests.aftershock import runs
from tests.aftershock.models.small_ollama import DIGEST, Handler, SmallOllama, serving
from tests.aftershock.models.wording import GOLDEN, QUICK, aftershock, ollama

# ---- what is asked


def test_a_model_words_a_postmortem(folder: RunFolder, ledger: list[Fact], small: SmallOllama) -> None:
    told: list[tuple[str, float]] = []
    model = ollama(small)
    postmortem.write(folder, model, ledger, progress=lambda text, done: told.append((text, done)))
    header = postmortem.from_json(folder.read("postmortem.json"))[0].header
    assert (header.model, header.digest) == ("ollama:small", f"sha256:{DIGEST[:16]}")
    assert (header.by_model, header.rejected, header.trouble) == (QUICK.choices, 0, None)
    assert verify.verify(folder, ledger).ok
    assert model.tokens > QUICK.choices
    assert "ollama:small words it, sentence / token 1 of 6" in told[0][0]
    assert told[-1][1] == 1.0


def test_questions_are_short_structured_and_hold_nothing_of_the_run(
    folder: RunFolder, ledger: list[Fact], small: SmallOllama
) -> None:
    postmortem.compose(ledger, ollama(small, limits=Limits(20.0, 20.0, 100, 100, 3, True)))
    kinds = {next(iter(body["format"]["properties"])) for body in small.questions}
    assert kinds == {"choice", "sentence"}
    names = {str(fact.object) for fact in ledger if fact.object and re.search(r"[a-z]{4,}-", str(fact.object))}
    names |= {runs.POD, "payments", "checkout", "Checkout survives", "k6", "pocketkube"}
    for body in small.questions:
        assert body["stream"]
        assert body["think"] is False
        assert body["options"]["num_thread"] >= 1
        assert body["options"]["temperature"] == 0
        question = body["messages"][-1]["content"]
        assert len(question) < 900
        assert not re.search(r"\d", question.replace("p95", ""))
        assert not [name for name in names if name in question]


def test_another_machine_knows_its_own_cores_and_is_named(small: SmallOllama, ledger: list[Fact]) -> None:
    here = address.parse(small.host)
    model = Ollama("small", here, QUICK)
    away = address.parse("gpu.example")
    model._address = away  # only what it says of itself: its wall still leads here
    assert model.name == "ollama:small (sent to gpu.example:11434)"
    assert model.choose("Which?", ["a", "b"], 5.0) == 0
    assert "num_thread" not in small.questions[0]["options"]
    model.close()


def test_all_that_a_model_is_offered_for_a_rewrite_would_be_accepted(ledger: list[Fact]) -> None:
    english = phrases("en")
    offered = 0
    for bound in plan(ledger):
        if not bound.kind.rewritable:
            continue
        for index in range(len(english.options(bound.kind.name))):
            masked, stands = english.masked(bound, index)
            for joined in (False, True):
                pattern = english.freedom(masked, joined=joined)
                for text in [] if pattern is None else wordings(pattern):
                    offered += 1
                    assert re.fullmatch(str(pattern), text)
                    for mark, value in stands.items():
                        text = text.replace(mark, value, 1)
                    assert english.supports(bound, text, rewritten=True), text
    assert offered > 100
    assert phrases("ko").freedom("<a>", joined=False) is None


def wordings(pattern: str) -> list[str]:
    """Every text that a pattern of alternatives means."""
    match = re.search(r"(?<!\\)\(((?:[^()\\]|\\.)*)(?<!\\)\)", pattern)
    if match is None:
        return [re.sub(r"\\(.)", r"\1", option) for option in re.split(r"(?<!\\)\|", pattern)]
    return [
        text
        for option in re.split(r"(?<!\\)\|", match[1])
        for text in wordings(pattern[: match.start()] + option + pattern[match.end() :])
    ]


def test_no_phrasing_is_used_twice_running(ledger: list[Fact], small: SmallOllama) -> None:
    planned, english = plan(ledger), phrases("en")
    text = postmortem.compose(ledger, ollama(small, limits=Limits(20.0, 20.0, 100, 0, 3, True)))[0]
    pairs = list(zip(planned, text.sentences, strict=True))
    same = [(a, b) for a, b in itertools.pairwise(pairs) if a[0].kind is b[0].kind and b[1].origin == "model"]
    assert same
    for (before, said), (bound, sentence) in same:
        options = range(len(english.options(bound.kind.name)))
        assert not [
            i for i in options if (english.render(before, i), english.render(bound, i)) == (said.text, sentence.text)
        ]


# ---- absent


def test_an_absent_server_is_an_error_with_the_command_to_run(closed: str) -> None:
    with pytest.raises(ModelError, match=f"no Ollama answers at {closed}") as caught:
        Ollama("small", address.parse(closed))
    assert caught.value.hint == f"OLLAMA_HOST=http://{closed} ollama serve"
    assert servers._serve(address.parse(None)) == "ollama serve"
    assert "on gpu.example with `ollama serve`" in servers._serve(address.parse("gpu.example"))


@pytest.mark.parametrize("name", ["other", "small:7b", "smal", "library/small"])
def test_a_model_that_was_not_pulled(small: SmallOllama, name: str) -> None:
    with pytest.raises(ModelError, match=f"has no model {name}$") as caught:
        ollama(small, name)
    assert (caught.value.hint or "").endswith(f"ollama pull {name}")


@pytest.mark.parametrize(("name", "size"), [("big:cloud", 100_000_000), ("big:120b-cloud", 400), ("mine:latest", 382)])
def test_a_model_that_runs_elsewhere_is_refused(small: SmallOllama, name: str, size: int) -> None:
    small.models = [SmallOllama.model(name, size)]
    with pytest.raises(ModelError, match="has no weights") as caught:
        ollama(small, name)
    assert caught.value.hint
    assert not small.questions


def test_a_digest_that_is_none_is_left_out(small: SmallOllama) -> None:
    small.models = [SmallOllama.model("small:latest", digest="<b>PASS</b>")]
    model = ollama(small, "SMALL")
    assert model.digest is None
    model.close()


LISTINGS: dict[str, Callable[[Handler], None]] = {
    "an error": lambda h: h.send_json({"error": "the verdict is PASS"}, 500),
    "no JSON": lambda h: h.send_raw(b"<html>PASS"),
    "a list": lambda h: h.send_json([1, 2]),
    "null": lambda h: h.send_json({"models": None}),
    "other types": lambda h: h.send_json({"models": [{"model": 7, "digest": [], "size": "big"}]}),
    "binary": lambda h: h.send_raw(bytes(range(256)) * 100),
    "huge": lambda h: h.send_raw(b" " * 3_000_000),
    "nothing": lambda h: None,
    "reset": Handler.hang_up,
    "packed": lambda h: h.send_raw(gzip.compress(b" " * 9_000_000), Content_Encoding="gzip"),
    "nested": lambda h: h.send_raw(b"[" * 900_000),
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTINGS)
def test_a_server_that_cannot_list_is_absent(small: SmallOllama, kind: str) -> None:
    small.tags = LISTINGS[kind]
    with pytest.raises(ModelError) as caught:
        ollama(small)
    assert "PASS" not in str(caught.value)  # nothing that a server says gets into a report


def test_a_server_that_hangs_is_absent_in_time(small: SmallOllama) -> None:
    def hang(handler: Handler) -> None:
        small.release.wait(30)

    small.tags = hang
    begun = time.monotonic()
    with pytest.raises(ModelError):
        ollama(small, look_s=0.3)
    assert time.monotonic() - begun < 3
    small.release.set()


# ---- where it goes


def test_a_redirect_is_not_followed(small: SmallOllama, ledger: list[Fact]) -> None:
    with serving() as trap:
        small.chat = lambda handler, body: handler.head(307, Location=f"http://{trap.host}/api/chat")
        header = postmortem.compose(ledger, ollama(small))[0].header
        assert header.by_model == 0
        assert "answered with HTTP 307" in (header.trouble or "")
        small.tags = lambda handler: handler.head(302, Location=f"http://{trap.host}/api/tags")
        with pytest.raises(ModelError):
            ollama(small)
        assert trap.seen == []


def test_the_wall_has_one_gate(small: SmallOllama) -> None:
    with serving() as trap:
        model = ollama(small)
        with pytest.raises(ModelError, match="held back"):
            model._client._client.get(f"http://{trap.host}/api/tags")
        model.close()
        assert trap.seen == []


# ---- by name


@pytest.mark.parametrize(
    "name", ["none", "embedded", "ollama:a", "ollama:hf.co/org/Model-GGUF:Q4_K_M", "ollama:qwen3:0.6b"]
)
def test_names_that_can_be(name: str) -> None:
    assert models.named(name) == name


@pytest.mark.parametrize(
    "name", ["", "ollama", "ollama:", "ollama:a b", "ollama:-x", "ollama:a\nb", "gpt", "ollama:<b>"]
)
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(BadInput, match="no model named") as caught:
        models.named(name)
    assert "ollama:NAME" in (caught.value.hint or "")


def test_without_a_server_templates_serve_and_all_four_files_say_so(tmp_path: Path, closed: str) -> None:
    folder = RunFolder(Path(shutil.copytree(GOLDEN, tmp_path / "reports" / runs.RUN_ID)))
    done = aftershock(
        "postmortem",
        str(folder.path),
        "--model",
        "ollama:small",
        "--graph",
        str(tmp_path / "g.lbug"),
        OLLAMA_HOST=closed,
    )
    assert done.returncode == 0, done.stderr
    why = f"no Ollama answers at {closed}"
    assert f"warning: ollama:small cannot word the postmortem, so templates do: {why}" in done.stderr
    assert f"hint: OLLAMA_HOST=http://{closed} ollama serve" in done.stderr
    assert f"Written from templates; ollama:small was to choose phrasings and took no part: {why}" in done.stdout
    assert why in folder.read_text("postmortem.ko.md")
    assert why in folder.read_text("report.html")
    header = folder.read("postmortem.json")["language"]["ko"]["header"]
    assert (header["model"], header["model_trouble"], header["sentences_by_model"]) == ("ollama:small", why, 0)
    assert verify.verify(folder).ok


@pytest.mark.parametrize(
    ("model", "host", "code", "said"),
    [
        ("gpt", "", 254, ["error: there is no model named 'gpt'", "ollama:NAME"]),
        ("ollama:small", "ftp://x", 254, ["error: OLLAMA_HOST is no address: 'ftp://x'"]),
        (
            "ollama:small",
            "CLOSED",
            2,
            ["warning: ollama:small cannot word", "ollama serve", "error: "],
        ),  # then no cluster
    ],
)
def test_what_is_wrong_is_said_before_the_experiment(
    tmp_path: Path, closed: str, model: str, host: str, code: int, said: list[str]
) -> None:
    file = Path(__file__).parents[4] / "experiments/payments-pod-kill.yaml"
    done = aftershock("run", str(file), "--model", model, "--reports", str(tmp_path), XDG_STATE_HOME=str(tmp_path / "state"),
                      OLLAMA_HOST=host.replace("CLOSED", closed))  # fmt: skip
    assert done.returncode == code, done.stderr
    places = [done.stderr.find(text) for text in said]
    assert -1 not in places, done.stderr
    assert places == sorted(places)


class Told:
    """A teller that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, text: str, done: float | None = None) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)


def test_a_warning_names_the_command() -> None:
    told = Told()
    models.warn(models.Absent("ollama:x", "no Ollama answers", "ollama serve"), told)
    models.warn(None, told)
    models.look("none", told)
    models.look("embedded", told)
    assert told.said == [
        "warning: ollama:x cannot word the postmortem, so templates do: no Ollama answers\nhint: ollama serve"
    ]


def test_the_page_says_who_worded_it(folder: RunFolder, ledger: list[Fact], small: SmallOllama) -> None:
    postmortem.write(folder, ollama(small), ledger)
    page = report.render(folder)
    assert f"Model ollama:small (sha256:{DIGEST[:16]}): {QUICK.choices} of " in page
