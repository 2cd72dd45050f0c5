"""report.html: one self-contained page from whatever files a run folder has."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from aftershock.folder import RunFolder
from aftershock.report import page

HERE = Path(__file__).parent


def write(folder: RunFolder) -> Path:
    """Write `report.html` and return its path. Raises FolderError without a readable run.json and verdict.json."""
    folder.write_text("report.html", render(folder))
    return folder.path / "report.html"


def render(folder: RunFolder) -> str:
    """The page as text."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    built = page.build(folder)
    return _template().render(page=built, style=Markup(style), policy=policy)


@cache
def _style() -> str:
    return (HERE / "style.css").read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    environment.filters |= {"moment": page.moment, "offset": page.offset, "figure": page.figure, "answer": page.answer}
    return environment.get_template("page.html.j2")
