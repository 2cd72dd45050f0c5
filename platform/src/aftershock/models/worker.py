"""The child process of the embedded model: one JSON question a line on stdin, one answer a line on stdout, ends with its stdin."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

CONTEXT_TOKENS = 512
REWRITE_TOKENS = 70
LETTERS = "ABCDE"
SCORES = 20  # the likeliest tokens; a letter that is not among them is given the least of their scores
_CHOOSE = "<|im_start|>user\n{prompt}\n{options}<|im_end|>\n<|im_start|>assistant\n"
_REWRITE = (
    "<|im_start|>system\nRewrite the sentence with small changes. Keep <a>, <b>, <c> as they are.<|im_end|>\n"
    "<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
)


class Engine:
    """llama.cpp on one file; seeded and greedy, so that the same question has the same answer."""

    def __init__(self, path: str, threads: int, seed: int) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = path
        parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = CONTEXT_TOKENS, 1, 0
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.warmup, parameters.ui, parameters.offline = False, False, True
        parameters.cache_ram_mib, parameters.verbosity, parameters.sampling.seed = 0, -1, seed
        # llama.cpp's server insists on listening; a socket in a folder that only we may enter keeps everybody else out.
        parameters.hostnames = [os.path.join(os.getcwd(), "model.sock")]
        self._seed = seed
        self._usual: dict[tuple[str, int], list[float]] = {}
        self._server = xllamacpp.Server(parameters)

    def complete(self, prompt: str, tokens: int) -> str:
        """What the model says after the prompt, up to the end of its line."""
        return str(self._ask(prompt, tokens, {})["text"])

    def scores(self, prompt: str, letters: str) -> list[float]:
        """How likely each letter is to come next, as logarithms."""
        first = self._ask(prompt, 1, {"logprobs": SCORES})["logprobs"]["content"][0]["top_logprobs"]
        found: dict[str, float] = {}
        for token in first:
            found.setdefault(token["token"].strip(), token["logprob"])
        least = min(token["logprob"] for token in first)
        return [found.get(letter, least) for letter in letters]

    def choose(self, prompt: str, options: Sequence[str]) -> int:
        """The option whose letter gains most over the same question with empty options: small models prefer the first letter."""
        letters = LETTERS[: len(options)]
        key = (prompt, len(options))
        if key not in self._usual:
            self._usual[key] = self.scores(_question(prompt, ["…"] * len(options)), letters)
        gains = [a - b for a, b in zip(self.scores(_question(prompt, options), letters), self._usual[key], strict=True)]
        return gains.index(max(gains))

    def _ask(self, prompt: str, tokens: int, more: dict[str, Any]) -> dict[str, Any]:
        answer = self._server.handle_completions(
            {"prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "seed": self._seed, "cache_prompt": True,
             "stop": ["\n", "<|im_end|>"], **more}
        )  # fmt: skip
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        choice: dict[str, Any] = answer["choices"][0]
        return choice


def _question(prompt: str, options: Sequence[str]) -> str:
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return _CHOOSE.format(prompt=prompt, options=listed)


def reply(engine: Engine, question: dict[str, Any]) -> int | str:
    """The answer to one question."""
    if "choose" in question:
        return engine.choose(question["choose"], question["options"])
    return engine.complete(_REWRITE.format(text=question["rewrite"]), REWRITE_TOKENS).strip()


def main() -> None:
    """Serve until stdin ends."""
    path, threads, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # llama.cpp prints
    os.dup2(quiet, 2)

    def answer(value: int | str) -> None:
        answers.write(json.dumps({"answer": value}) + "\n")
        answers.flush()

    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    engine = Engine(path, threads, seed)
    answer(f"sha256:{digest[:16]}")
    for line in sys.stdin:
        answer(reply(engine, json.loads(line)))
    answers.flush()
    os._exit(0)  # llama.cpp's threads take their time


if __name__ == "__main__":
    main()
