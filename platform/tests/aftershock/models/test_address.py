"""OLLAMA_HOST in all the forms that Ollama's own programs read."""

from __future__ import annotations

import pytest

from aftershock.errors import BadInput
from aftershock.models.address import parse


@pytest.mark.parametrize(
    ("text", "url", "loopback"),
    [
        (None, "http://127.0.0.1:11434", True),
        ("", "http://127.0.0.1:11434", True),
        ("  ", "http://127.0.0.1:11434", True),
        (":8080", "http://127.0.0.1:8080", True),
        ("127.0.0.1", "http://127.0.0.1:11434", True),
        ("127.0.0.1:", "http://127.0.0.1:11434", True),
        ("'127.0.0.1:11434'", "http://127.0.0.1:11434", True),
        ("127.9.8.7:1", "http://127.9.8.7:1", True),
        ("localhost", "http://127.0.0.1:11434", True),
        ("LOCALHOST:99", "http://127.0.0.1:99", True),
        ("0.0.0.0", "http://127.0.0.1:11434", True),
        ("0.0.0.0:1234", "http://127.0.0.1:1234", True),
        ("http://0.0.0.0", "http://127.0.0.1:80", True),
        ("[::]:1234", "http://[::1]:1234", True),
        ("::", "http://[::1]:11434", True),
        ("[::1]", "http://[::1]:11434", True),
        ("::1", "http://[::1]:11434", True),
        ("2001:DB8::7", "http://[2001:db8::7]:11434", False),
        ("http://[2001:db8::7]:99/ollama/", "http://[2001:db8::7]:99/ollama", False),
        ("192.0.2.1", "http://192.0.2.1:11434", False),
        ("http://192.0.2.1", "http://192.0.2.1:80", False),
        ("https://gpu.example", "https://gpu.example:443", False),
        ("https://gpu.example:8443/", "https://gpu.example:8443", False),
        ("gpu.example:99/a/b/", "http://gpu.example:99/a/b", False),
        ("localhost.example", "http://localhost.example:11434", False),
        ("127.0.0.1.example", "http://127.0.0.1.example:11434", False),
    ],
)
def test_forms(text: str | None, url: str, loopback: bool) -> None:
    address = parse(text)
    assert (address.url, address.loopback) == (url, loopback)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://127.0.0.1",
        "://x",
        "http://a b",
        "127.0.0.1:http",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "[::1",
        "[1::2::3]",
        "host:1:2",
        "user:secret@host",
        "http://host/a@b",
        "host?x=1",
        "host/../?x",
        "host#x",
        "ho\nst",
        "hôst",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BadInput, match="OLLAMA_HOST") as caught:
        parse(text)
    assert caught.value.hint
    assert "secret" not in str(caught.value)
