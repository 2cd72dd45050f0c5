"""On the real Ollama of $OLLAMA_HOST, with the model $OLLAMA_MODEL (smollm2): asked for by `make test-servers`."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from aftershock import facts, postmortem, verify
from aftershock.errors import ModelError
from aftershock.folder import RunFolder
from aftershock.models import Absent, Limits, address
from aftershock.models.embedded import Embedded
from aftershock.models.ollama import Ollama
from tests.aftershock import runs
from tests.aftershock.models.wording import GOLDEN, aftershock, unchanged

pytestmark = pytest.mark.servers
PATIENT = Limits(budget_s=120.0, call_s=60.0, choices=8, rewrites=4, offered=3, context=True)


@pytest.fixture(scope="module")
def host() -> str:
    """Where the server is; without it these tests fail, since they were asked for by name."""
    found = os.environ.get("OLLAMA_HOST")
    if not found:
        pytest.fail(
            "OLLAMA_HOST is not set: these tests need a running Ollama with the model of OLLAMA_MODEL (smollm2)"
        )
    return found


@pytest.fixture(scope="module")
def name() -> str:
    return os.environ.get("OLLAMA_MODEL", "smollm2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return runs.write(tmp_path_factory.mktemp("reports"))


def test_it_words_sentences_and_every_claim_holds(host: str, name: str, folder: RunFolder) -> None:
    model = Ollama(name, address.parse(host), PATIENT)
    header = unchanged(folder, facts.of(folder), model)
    assert header.by_model >= PATIENT.choices - 1
    assert header.trouble is None
    assert (header.digest or "").startswith("sha256:")
    assert model.tokens > 0


def test_answers_are_of_the_form_that_was_asked_for(host: str, name: str) -> None:
    model = Ollama(name, address.parse(host), PATIENT)
    try:
        assert model.choose("Which is clearer?", ["It held.", "What held was it.", "Held it was."], 60) in (0, 1, 2)
        pattern = "(In|During) the <a> the <b> was <c>\\."
        wordings = {"In the <a> the <b> was <c>.", "During the <a> the <b> was <c>."}
        assert model.rewrite("In the <a> the <b> was <c>.", pattern, 60) in wordings  # the grammar is the server's
    finally:
        model.close()


def test_the_same_question_has_the_same_answer(host: str, name: str) -> None:
    answers = []
    for _ in range(2):
        model = Ollama(name, address.parse(host), PATIENT)
        answers.append([model.choose(f"Before: the {n} held.", ["It held.", "What held was it."], 60) for n in "ab"])
        model.close()
    assert answers[0] == answers[1]


def test_facts_are_the_same_with_every_model(host: str, name: str, folder: RunFolder) -> None:
    ledger = facts.of(folder)
    known = []
    for model in (
        None,
        Embedded(),
        Ollama(name, address.parse(host), PATIENT),
        Absent("ollama:x", "no Ollama answers"),
    ):
        unchanged(folder, ledger, model, Limits(120.0, 60.0, 3, 1, 3, True))
        texts = postmortem.from_json(folder.read("postmortem.json"))
        known.append((folder.read("facts.json"), [[s.facts for s in text.sentences] for text in texts]))
    assert all(one == known[0] for one in known)


def test_a_model_that_was_not_pulled(host: str) -> None:
    with pytest.raises(ModelError, match="has no model no-such-model-here") as caught:
        Ollama("no-such-model-here", address.parse(host))
    assert (caught.value.hint or "").endswith("ollama pull no-such-model-here")


def test_a_deadline_ends_the_request(host: str, name: str) -> None:
    model = Ollama(name, address.parse(host), PATIENT)
    begun = time.monotonic()
    with pytest.raises(ModelError):
        model.rewrite("Say anything, at length.", "[a-z ]{200,400}", 0.2)
    assert time.monotonic() - begun < 5
    model.close()
    after = Ollama(name, address.parse(host), PATIENT)  # the server has stopped writing and answers
    assert after.choose("Which is clearer?", ["It held.", "Held it was."], 60) in (0, 1)
    after.close()


def test_the_command_uses_it_and_all_four_files_say_so(host: str, name: str, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(GOLDEN, tmp_path / "reports" / runs.RUN_ID)))
    done = aftershock(
        "postmortem",
        str(folder.path),
        "--model",
        f"ollama:{name}",
        "--graph",
        str(tmp_path / "g.lbug"),
        OLLAMA_HOST=host,
    )
    assert done.returncode == 0, done.stderr
    assert f"ollama:{name} words it" in done.stderr
    for language, file in postmortem.FILES.items():
        header = folder.read("postmortem.json")["language"][language]["header"]
        assert header["sentences_by_model"] > 0
        assert header["model_digest"] in folder.read_text(file)
        assert f"ollama:{name}" in folder.read_text(file).replace("\\", "")
        assert (
            f"Model {header['model']} ({header['model_digest']}): {header['sentences_by_model']} of"
            in folder.read_text("report.html")
        )
    assert verify.verify(folder).ok
