"""A model on an Ollama server: the official client, answers in a JSON schema, streamed, behind a wall with one gate.

The wall lets requests go to the named address and nowhere else (no proxy of the environment, no redirect), and bounds how long and how
large an answer may be. What is sent are phrasings with placeholders: no figure, name or time of a run.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar, cast

import httpx
import ollama

from aftershock.errors import DeadlineExceeded, ModelError
from aftershock.models import OLLAMA, Limits
from aftershock.models.address import PORT, Address
from aftershock.models.caged import within

LIMITS = Limits(budget_s=45.0, call_s=10.0, choices=60, rewrites=10, offered=3, context=True)
LOOK_S = 5.0  # a server that is up lists its models at once
CONNECT_S = 2.0
BYTES_MAX = 2_000_000  # of one answer on the wire; a token of a stream is some 150
TEXT_MAX = 2000
WEIGHTS_MIN = 1_000_000  # bytes; an entry that is smaller only points to a server elsewhere
LETTERS = "ABCDE"
CHOICE_TOKENS, SENTENCE_TOKENS = 32, 160
_CHOOSE = (
    'You edit a report. Pick the phrasing that reads best after the sentence before it. Answer {"choice": "LETTER"}.'
)
_REWRITE = (
    "You edit a report. Reword the sentence so that it reads well after the one before it. "
    'Keep <a>, <b>, <c> as they are. Answer {"sentence": "..."}.'
)
_T = TypeVar("_T")


class Ollama:
    """A model on a server; making one asks the server whether it has it, and loads nothing."""

    def __init__(self, model: str, address: Address, limits: Limits = LIMITS, look_s: float = LOOK_S) -> None:
        self._model, self._address, self.limits = model, address, limits
        self.tokens = 0
        self._wall = Wall(address)
        # A model of a gateway's own may need a key: the client takes OLLAMA_API_KEY, and sends it to this address only.
        self._client = ollama.Client(
            address.url, transport=self._wall, trust_env=False, follow_redirects=False,
            timeout=httpx.Timeout(limits.budget_s or look_s, connect=CONNECT_S),
        )  # fmt: skip
        try:
            self._wall.until = time.monotonic() + look_s
            self.digest: str | None = self._found(within(look_s, self._listed))
        except DeadlineExceeded as error:
            self.close()
            raise ModelError(f"Ollama at {address.netloc} is there, but {error}", hint=_serve(address)) from None
        except ModelError:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The option as it was given, and where the phrasings were sent if that is another machine."""
        return f"{OLLAMA}{self._model}" + ("" if self._address.loopback else f" (sent to {self._address.netloc})")

    def choose(self, prompt: str, options: Sequence[str], deadline_s: float) -> int:
        """Index of an option. Raises ModelError if no answer comes in time or it is none of them."""
        letters = LETTERS[: len(options)]
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
        schema = {"type": "string", "enum": list(letters)}
        answer = self._ask(_CHOOSE, f"{prompt}\n{listed}", "choice", schema, CHOICE_TOKENS, deadline_s)
        if len(answer) != 1 or answer not in letters:
            raise ModelError("it chose what was not offered")
        return letters.index(answer)

    def rewrite(self, text: str, pattern: str, deadline_s: float) -> str:
        """The sentence in other words. Raises ModelError if no answer comes in time."""
        schema = {"type": "string", "pattern": f"^{pattern}$"}
        return self._ask(_REWRITE, text, "sentence", schema, SENTENCE_TOKENS, deadline_s)

    def close(self) -> None:
        """Drop the connections; a server that still writes stops."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _listed(self) -> Sequence[ollama.ListResponse.Model]:
        return self._tried(lambda: self._client.list().models)

    def _found(self, models: Sequence[ollama.ListResponse.Model]) -> str | None:
        """Digest of the model among those that the server has."""
        wanted = self._model if ":" in self._model.rpartition("/")[2] else f"{self._model}:latest"
        found = next((m for m in models if (m.model or "").lower() == wanted.lower()), None)
        where = self._address.netloc
        if found is None:
            raise ModelError(
                f"Ollama at {where} has no model {self._model}",
                hint=f"{_there(self._address)}ollama pull {self._model}",
            )
        if wanted.endswith("cloud") or (found.size is not None and int(found.size) < WEIGHTS_MIN):
            raise ModelError(f"{self._model} has no weights at {where}, which would send it all to a server elsewhere",
                             hint="pull a model that runs on your own server")  # fmt: skip
        digest = (found.digest or "").removeprefix("sha256:")
        return f"sha256:{digest[:16]}" if re.fullmatch("[0-9a-f]{16,64}", digest) else None

    def _ask(
        self, task: str, question: str, key: str, schema: Mapping[str, Any], tokens: int, deadline_s: float
    ) -> str:
        """The answer's only string."""
        self._wall.until = time.monotonic() + deadline_s
        form = {"type": "object", "properties": {key: schema}, "required": [key]}
        text = self._tried(lambda: "".join(self._stream(task, question, form, tokens)))
        try:
            answer = json.loads(text)[key]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ModelError("its answer is not of the form that was asked for") from None
        if not isinstance(answer, str):
            raise ModelError("its answer is not of the form that was asked for")
        return answer

    def _stream(self, task: str, question: str, form: Mapping[str, Any], tokens: int) -> Iterator[str]:
        messages = [{"role": "system", "content": task}, {"role": "user", "content": question}]
        options: dict[str, Any] = {"temperature": 0, "seed": 7, "num_predict": tokens}
        if self._address.loopback:  # another machine knows its own cores; a thread a core spins where others work too
            options["num_thread"] = max(1, len(os.sched_getaffinity(0)) // 2)
        parts = self._client.chat(
            self._model, messages, stream=True, think=False, format=dict(form), options=options
        )  # fmt: skip
        size = 0
        with closing(cast("Any", parts)):  # it is a generator: closing it ends the request
            for part in parts:
                said = part.message.content or ""
                self.tokens += 1
                size += len(said)
                if size > TEXT_MAX:
                    raise ModelError("its answer is too long")
                yield said

    def _tried(self, call: Callable[[], _T]) -> _T:
        """What the client returns; what it raises, in our words, since a server's words would stand in a report."""
        where = f"Ollama at {self._address.netloc}"
        try:
            return call()
        except ModelError:
            raise
        except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout):
            raise ModelError(f"no Ollama answers at {self._address.netloc}", hint=_serve(self._address)) from None
        except httpx.TimeoutException:
            raise ModelError(f"{where} did not answer in time", hint=_serve(self._address)) from None
        except httpx.HTTPError as error:
            raise ModelError(f"{where} broke off ({type(error).__name__})", hint=_serve(self._address)) from None
        except ollama.ResponseError as error:
            status = f"with HTTP {error.status_code}" if error.status_code > 0 else "with an error"
            raise ModelError(f"{where} answered {status}", hint="its log says why") from None
        except (ValueError, TypeError, AttributeError, RecursionError):  # what json and the client's models raise
            raise ModelError(f"{where} does not speak Ollama's language", hint=_serve(self._address)) from None


def _there(address: Address) -> str:
    """How a command of Ollama's is told of a server that is not at its usual place."""
    usual = address.loopback and address.port == PORT
    return "" if usual else f"OLLAMA_HOST={address.url} "


def _serve(address: Address) -> str:
    if address.loopback:
        return f"{_there(address)}ollama serve"
    return f"start it on {address.host} with `ollama serve`, or set OLLAMA_HOST to where it is"


class Wall(httpx.BaseTransport):
    """Lets requests go to one address; answers are bounded in time (`until`, of time.monotonic) and size, and come as they are."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._inner = httpx.HTTPTransport(trust_env=False)
        self.until = 0.0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on. Raises ModelError if it would go elsewhere."""
        url, to = request.url, self._address
        if (url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)) != (to.scheme, to.host, to.port):
            raise ModelError(f"a request to another address than {to.netloc} was held back")
        remaining = max(0.01, self.until - time.monotonic())
        request.extensions = request.extensions | {
            "timeout": {"connect": min(CONNECT_S, remaining), "read": remaining, "write": remaining, "pool": remaining}
        }
        request.headers["accept-encoding"] = "identity"
        response = self._inner.handle_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()  # unpacked it could be of any size
            raise ModelError(f"Ollama at {to.netloc} answered with what was not asked for")
        return httpx.Response(
            response.status_code, headers=response.headers, extensions=response.extensions,
            stream=_Bounded(cast("httpx.SyncByteStream", response.stream), self.until),
        )  # fmt: skip

    def close(self) -> None:
        """Drop the connections."""
        self._inner.close()


class _Bounded(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, until: float) -> None:
        self._inner, self._until = inner, until

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._inner:
            size += len(chunk)
            if size > BYTES_MAX:
                raise ModelError("its answer is too long")
            if time.monotonic() > self._until:
                raise httpx.ReadTimeout("the answer takes too long")
            yield chunk

    def close(self) -> None:
        self._inner.close()
