"""Property tests that are the same in each run, and that a busy machine does not fail; in CI no skip where tests were asked for by name;
Ctrl-C that reaches the programs under test, however the tests were started.
"""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

ASKED_FOR = frozenset({"demo", "k8s", "servers"})


def pytest_configure() -> None:
    """A shell starts what runs in the background with SIGINT ignored, and each program that we start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """CI has the cluster and the servers: a test on them that skips itself tested nothing there, and is red."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    asked = session.config.option.markexpr in ASKED_FOR and os.environ.get("CI")
    if asked and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
