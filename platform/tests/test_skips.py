"""In CI a skipped test on a server or a cluster is red, elsewhere it is a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLATFORM = Path(__file__).parents[1]
SKIPS = "import pytest\n@pytest.mark.servers\ndef test_it():\n    pytest.skip('no server')\n"


@pytest.mark.parametrize(
    ("ci", "asked", "red"), [("true", "servers", True), ("", "servers", False), ("true", "not demo", False)]
)
def test_a_skip_is_red_where_ci_asked_for_it(tmp_path: Path, ci: str, asked: str, red: bool) -> None:
    (tmp_path / "test_it.py").write_text(SKIPS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  servers: s\n  demo: d\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-m", asked, "."]
    told = {**os.environ, "CI": ci, "PYTHONPATH": str(PLATFORM)}
    done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, timeout=60, check=False)
    assert "1 skipped" in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 1) == red
