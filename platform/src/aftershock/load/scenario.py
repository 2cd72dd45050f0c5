"""A scenario's files, as they are handed to a cluster: the same bytes that run here."""

from __future__ import annotations

import re
from pathlib import Path

from aftershock.errors import BadInput

BYTES_MAX = 900_000  # a ConfigMap holds 1 MiB
FILES_MAX = 50
_BESIDE = re.compile(r"""(?:from|import)\s*\(?\s*['"]\./([^'"/]+)['"]""")  # only k6's; Locust files come alone


def files(scenario: Path) -> dict[str, str]:
    """The scenario and the files beside it that it imports, by name. Raises BadInput."""
    found: dict[str, str] = {}
    wanted = [scenario.name]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        try:
            found[name] = (scenario.parent / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{scenario}: {name} cannot be read: {error}") from None
        if scenario.suffix == ".js":
            wanted += _BESIDE.findall(found[name])
        if len(found) > FILES_MAX or sum(len(text.encode()) for text in found.values()) > BYTES_MAX:
            raise BadInput(f"{scenario}: with what it imports it is too large for a cluster",
                           hint=f"at most {BYTES_MAX // 1000} kB in {FILES_MAX} files")  # fmt: skip
    return found
