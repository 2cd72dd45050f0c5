"""The images as they run: nobody's root, nothing to write on, nothing to build with, and all that a role needs."""

from __future__ import annotations

import json

import pytest

from aftershock.cluster import Cluster

from .conftest import until
from .kubectl import SHOP, apply, guest, kubectl, pod_of

ROLES = ("storefront", "catalog", "cart", "orders", "payments", "shipping")
TOOLS = ("gcc", "cc", "g++", "make", "ld", "as", "pip", "pip3", "git", "curl", "wget", "dpkg-buildpackage")


def inside(context: str, app: str, *command: str, code: int = 0) -> str:
    return kubectl(context, "-n", "shop", "exec", pod_of(context, app), "--", *command, code=code)


@pytest.mark.parametrize("app", [*ROLES, "postgres"])
def test_nobody_is_root_and_nothing_can_be_written(cluster_context: str, app: str) -> None:
    script = (
        'id -u; id -g; for d in / /opt /usr/local/bin /etc; do touch $d/x 2>/dev/null && echo "wrote $d"; done; true'
    )
    user, group, *wrote = inside(cluster_context, app, "sh", "-c", script).split("\n")[:-1]
    assert wrote == []
    assert user != "0"
    assert group != "0"


def test_nothing_to_build_with(cluster_context: str) -> None:
    script = 'for t in "$@"; do command -v $t; done; python -c "import pip" 2>/dev/null && echo pip; true'
    assert inside(cluster_context, "payments", "sh", "-c", script, "look", *TOOLS) == ""


def compiled(context: str, app: str, *options: str) -> tuple[int, str]:
    """How many modules a start of this role imports, and those without bytecode."""
    script = (
        f"import os, sys, shop.__main__, shop.{app}\n"
        "named = {m.__cached__ for m in sys.modules.values() if getattr(m, '__cached__', None)}\n"
        "print(len(named), sorted(n for n in named if not os.path.exists(n))[:5])"
    )
    known, _, without = inside(context, app, "python", *options, "-c", script).partition(" ")
    return int(known), without.strip()


@pytest.mark.parametrize("app", ROLES)
def test_no_start_compiles_anything(cluster_context: str, app: str) -> None:
    """What cannot write bytecode compiles its modules at each start, unless the image brings all of it."""
    known, without = compiled(cluster_context, app)
    assert known > 300
    assert without == "[]"


def test_a_start_that_compiles_is_noticed(cluster_context: str) -> None:
    assert "/nonexistent" in compiled(cluster_context, "payments", "-X", "pycache_prefix=/nonexistent")[1]


def test_one_image_for_all_roles(cluster: Cluster) -> None:
    pods = cluster.list("/api/v1/namespaces/shop/pods", label_selector="app.kubernetes.io/part-of=shop")
    images = {s["imageID"] for p in pods if p["metadata"]["labels"]["app"] in ROLES
              for s in p["status"].get("containerStatuses") or []}  # fmt: skip
    assert len(images) == 1


@pytest.mark.parametrize("app", ROLES)
def test_the_health_check_knows_its_role(cluster_context: str, app: str) -> None:
    inside(cluster_context, app, "python", "-m", "shop.alive")
    inside(cluster_context, app, "env", "SHOP_LISTEN_PORT=7071", "python", "-m", "shop.alive", code=1)


def test_it_brings_the_client_of_the_database(cluster_context: str) -> None:
    ready = 'pg_isready --host "$SHOP_DATABASE_HOST" --port "$SHOP_DATABASE_PORT"'
    assert "accepting connections" in inside(cluster_context, "orders", "sh", "-c", ready)
    ask = (
        'export PGHOST="$SHOP_DATABASE_HOST" PGPORT="$SHOP_DATABASE_PORT" PGDATABASE="$SHOP_DATABASE_NAME" PGUSER="$SHOP_DATABASE_USER";'
        ' PGPASSWORD="$SHOP_DATABASE_PASSWORD" psql --tuples-only --no-align --command "select 6 * 7"'
    )
    assert inside(cluster_context, "orders", "sh", "-c", ask).strip() == "42"
    wrong = ask.replace('"$SHOP_DATABASE_PASSWORD"', "wrong")
    assert "password authentication failed" in inside(cluster_context, "orders", "sh", "-c", wrong, code=2)


def test_a_role_that_there_is_not_says_so(cluster_context: str, cluster: Cluster) -> None:
    path = "/api/v1/namespaces/default/pods/test-role"
    try:
        apply(cluster_context, guest("test-role", "default", {}, ["python", "-m", "shop", "bakery"], SHOP))
        until(lambda: cluster.request("GET", path)["status"]["phase"] == "Failed", 60)
        said = kubectl(cluster_context, "-n", "default", "logs", "test-role")
        assert "invalid choice: 'bakery'" in said
        (state,) = cluster.request("GET", path)["status"]["containerStatuses"]
        assert state["state"]["terminated"]["exitCode"] == 2, json.dumps(state)
    finally:
        kubectl(
            cluster_context, "-n", "default", "delete", "pod", "test-role", "--ignore-not-found", "--grace-period=0"
        )
