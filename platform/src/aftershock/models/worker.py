"""The child process of the embedded model: one JSON question a line on stdin, one answer a line on stdout, ends with its stdin."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from typing import Any

CONTEXT_TOKENS = 1024
REWRITE_TOKENS = 90
_CHOOSE = "<|im_start|>system\n{prompt} Answer with its number.<|im_end|>\n<|im_start|>user\n{options}<|im_end|>\n<|im_start|>assistant\n"
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
        self._server = xllamacpp.Server(parameters)

    def complete(self, prompt: str, tokens: int, grammar: str = "") -> str:
        """What the model says after the prompt, up to the end of its line."""
        answer = self._server.handle_completions(
            {"prompt": prompt, "max_tokens": tokens, "grammar": grammar, "temperature": 0.0, "seed": self._seed,
             "cache_prompt": True, "stop": ["\n", "<|im_end|>"]}
        )  # fmt: skip
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        return str(answer["choices"][0]["text"])


def reply(engine: Engine, question: dict[str, Any]) -> int | str:
    """The answer to one question."""
    if "choose" in question:
        options = question["options"]
        listed = "\n".join(f"{number}. {option}" for number, option in enumerate(options, 1))
        said = engine.complete(
            _CHOOSE.format(prompt=question["choose"], options=listed), 1, f"root ::= [1-{len(options)}]"
        )
        digit = re.search(r"[0-9]", said)
        return int(digit.group()) - 1 if digit else -1
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
