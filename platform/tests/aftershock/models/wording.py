"""Wording a postmortem in tests: the limits, and what must be the same whoever words it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from aftershock import models, postmortem, verify
from aftershock.facts import Fact
from aftershock.folder import RunFolder
from aftershock.models import Limits, address
from aftershock.models.ollama import Ollama
from tests.aftershock.models.small_ollama import SmallOllama

GOLDEN = Path(__file__).parents[1] / "golden/payments-pod-kill"
QUICK = Limits(budget_s=20.0, call_s=20.0, choices=6, rewrites=6, offered=3, context=True)
HASTY = Limits(budget_s=0.4, call_s=0.3, choices=6, rewrites=6, offered=3, context=True)


def ollama(small: SmallOllama, name: str = "small", limits: Limits = QUICK, look_s: float = 5.0) -> Ollama:
    return Ollama(name, address.parse(small.host), limits, look_s)


def unchanged(
    folder: RunFolder, ledger: Sequence[Fact], model: models.Model | None, limits: Limits | None = None
) -> postmortem.Header:
    """Word the postmortem by that model; all but the words must be as without one."""
    verdict = folder.read_text("verdict.json")
    texts = postmortem.write(folder, model, ledger, limits)
    assert folder.read_text("verdict.json") == verdict
    assert folder.read("facts.json") == [fact.as_row() for fact in ledger]
    result = verify.verify(folder, ledger)
    assert result.ok, result.failures
    assert result.claims == sum(len(text.sentences) for text in texts)
    for text, plain in zip(texts, postmortem.compose(ledger), strict=True):
        assert [s.facts for s in text.sentences] == [s.facts for s in plain.sentences]
        assert text.title == plain.title
    return texts[0].header


def aftershock(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-m", "aftershock.cli", *arguments], env=known | environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
