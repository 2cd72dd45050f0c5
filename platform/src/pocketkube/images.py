"""Images: the file that maps an image's name to a program, and what a forking parent imports ahead for it.

images:
  aftershock/shop:dev:
    entrypoint: [python, -m, shop]     # `python` is this interpreter
    command: []                        # default arguments, as CMD of a Dockerfile
    env: {NAME: value}
    preload: [shop.__main__]           # modules; only for `python -m MODULE`
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pocketkube.errors import ImageUnknown, StartError

_KEYS = {"entrypoint": list, "command": list, "env": dict, "preload": list}


@dataclass(frozen=True)
class Image:
    """One known image."""

    name: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()

    def argv(self, command: list[str], args: list[str]) -> list[str]:
        """What a container runs: `command` replaces the entrypoint and drops the image's arguments, `args` replaces those."""
        if command:
            return [*command, *args]
        return [*self.entrypoint, *(args or self.command)]


BUILT_IN = (Image("registry.k8s.io/pause:3.10", entrypoint=("sleep", "infinity")),)


class Images:
    """Known images by name; `docker.io/library/x:latest` and `x` are the same."""

    def __init__(self, images: tuple[Image, ...] = ()) -> None:
        self.all = {_canonical(image.name): image for image in (*BUILT_IN, *images)}

    def find(self, name: str) -> Image:
        """The image of this name. Raises ImageUnknown."""
        found = self.all.get(_canonical(name))
        if found is None:
            known = ", ".join(sorted(self.all))
            raise ImageUnknown(
                f'failed to pull image "{name}": no program is known for it; `pocketkube up --images` names {known}'
            )
        return found


def read(path: Path) -> Images:
    """The images of a file. Raises StartError that says what is wrong where."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise StartError(f"cannot read the image file {path}: {error}", "see gitops/apps/pocket/images.yaml") from None
    entries = document.get("images") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        raise StartError(f"{path} has no mapping `images`", "see gitops/apps/pocket/images.yaml")
    return Images(tuple(_image(path, str(name), entry) for name, entry in entries.items()))


def _image(path: Path, name: str, entry: Any) -> Image:
    def wrong(what: str) -> StartError:
        return StartError(f"{path}: image {name}: {what}", f"keys are {', '.join(_KEYS)}")

    if not isinstance(entry, dict):
        raise wrong("is not a mapping")
    for key, value in entry.items():
        if key not in _KEYS:
            raise wrong(f"unknown key {key!r}")
        if not isinstance(value, _KEYS[key]):
            raise wrong(f"{key} is not a {_KEYS[key].__name__}")
    entrypoint = tuple(str(part) for part in entry.get("entrypoint", ()))
    preload = tuple(str(module) for module in entry.get("preload", ()))
    if preload and module_of(list(entrypoint)) is None:
        raise wrong("preload needs an entrypoint [python, -m, MODULE]")
    return Image(name, entrypoint, tuple(str(part) for part in entry.get("command", ())),
                 {str(k): str(v) for k, v in entry.get("env", {}).items()}, preload)  # fmt: skip


def module_of(argv: list[str]) -> tuple[str, list[str]] | None:
    """(module, argv after it) if this runs `python -m MODULE`."""
    if len(argv) > 2 and argv[0] in ("python", "python3", sys.executable) and argv[1] == "-m":
        return argv[2], argv[3:]
    return None


def program(argv: list[str]) -> list[str]:
    """argv with `python` replaced by this interpreter."""
    return [sys.executable, *argv[1:]] if argv and argv[0] in ("python", "python3") else argv


def _canonical(name: str) -> str:
    name = name.split("@")[0].removeprefix("docker.io/").removeprefix("library/")
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"
