"""The images as files: what they are made of is what was tested, and nothing else can get in."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from io import BytesIO
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PLATFORM = PROJECT / "platform"
DOCKERFILES = sorted([PLATFORM / "Dockerfile", *PLATFORM.glob("*.Dockerfile")])
SHIPPED = [d for d in DOCKERFILES if d.name != "single.Dockerfile"]


def pinned(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)(?:\[[^]]*\])?==([^ ;\\]+)", file.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", sorted(PLATFORM.glob("*-requirements.lock")), ids=lambda p: p.name)
def test_an_image_holds_the_versions_that_were_tested(lock: Path) -> None:
    tested, held = pinned(PROJECT / "requirements.lock"), pinned(lock)
    assert held
    assert {name: version for name, version in held.items() if tested.get(name) != version} == {}
    text = lock.read_text()
    assert len(re.findall(r"^\S+==", text, re.MULTILINE)) == len(held)
    assert "--hash=sha256:" in text
    assert "://" not in text
    wanted = [line.split("[")[0] for line in lock.with_suffix(".in").read_text().splitlines() if line[:1] not in "#"]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    named = {re.split(r"[^A-Za-z0-9-]", d, maxsplit=1)[0] for d in project}
    assert set(wanted) <= named


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda p: p.name)
def test_the_build_sees_what_it_copies_and_no_more(dockerfile: Path) -> None:
    let_in = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile.read_text(), re.MULTILINE)
        for word in line.split()
    }
    assert copied
    assert copied <= let_in
    assert all((PROJECT / name).exists() for name in copied)


@pytest.mark.parametrize("dockerfile", SHIPPED, ids=lambda p: p.name)
def test_an_image_says_what_it_is_and_who_runs_it(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    last = text[text.rindex("\nFROM ") :]
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert text.count("ARG BASE=python:3.12-slim-bookworm\n") == 1
    for label in ("title", "description", "version", "licenses"):
        assert f"org.opencontainers.image.{label}=" in last
    user = re.search(r"^USER (\d+):(\d+)$", last, re.MULTILINE)
    assert user is not None
    assert user[1] != "0"
    assert "pip install" not in last
    assert "apt-get" not in text
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert "ARG VERSION=" not in last or f"ARG VERSION={version}\n" in last


@pytest.mark.parametrize("name", ["Dockerfile", "postgres.Dockerfile"])
def test_a_health_check_gives_a_start_less_than_a_minute(name: str) -> None:
    found = re.search(r"^HEALTHCHECK .*--start-period=(\d+)s", (PLATFORM / name).read_text(), re.MULTILINE)
    assert found is not None
    assert 0 < int(found[1]) < 60


spec = importlib.util.spec_from_file_location("images", PLATFORM / "images.py")
assert spec is not None
assert spec.loader is not None
images = importlib.util.module_from_spec(spec)
sys.modules["images"] = images
spec.loader.exec_module(images)

BUILDER = """#!/bin/sh
echo "$@" >> "$CALLS"
[ "$3" != aftershock/postgres:18 ] || { echo "no space left"; exit 3; }
cp "$ARCHIVE" "$4"
"""


def archive(path: Path, *sizes: int) -> Path:
    with tarfile.open(path, "w") as tar:
        names = [f"layer{n}.tar" for n in range(len(sizes))]
        listed = ",".join(f'"{n}"' for n in names)
        for name, content in [("manifest.json", f'[{{"Layers":[{listed}]}}]'.encode()),
                              *((n, bytes(size)) for n, size in zip(names, sizes, strict=True))]:  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return path


def run(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    builder = tmp_path / "builder"
    builder.write_text(BUILDER)
    builder.chmod(0o755)
    return subprocess.run(
        [sys.executable, str(PLATFORM / "images.py"), *arguments], capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "CALLS": str(tmp_path / "calls"), "IMAGE_BUILD": str(builder), **environment},
    )  # fmt: skip


def test_another_builder_is_asked_for_each_image(tmp_path: Path) -> None:
    made = archive(tmp_path / "made.tar", 1_000_000, 3_000_000)
    done = run(tmp_path, "build", "shop", "--archives", str(tmp_path / "out"), ARCHIVE=str(made))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"aftershock/shop:dev  4 MB  {tmp_path}/out/shop.tar\n"
    assert (
        tmp_path / "calls"
    ).read_text() == f"{PROJECT} platform/Dockerfile aftershock/shop:dev {tmp_path}/out/shop.tar\n"


def test_a_failed_build_says_why(tmp_path: Path) -> None:
    done = run(tmp_path, "build", "postgres", "--archives", str(tmp_path))
    assert done.returncode == 1
    assert "no space left" in done.stderr
    assert "ended with 3" in done.stderr


def test_without_a_builder_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    done = run(tmp_path, "build", IMAGE_BUILD="", PATH=str(tmp_path / "bin"))
    assert done.returncode == 1
    assert "hint: install one" in done.stderr


@pytest.mark.parametrize(("one_stage", "code"), [(10_000_000, 0), (3_000_000, 1)])
def test_a_shop_that_is_not_small_is_red(tmp_path: Path, one_stage: int, code: int) -> None:
    small, large = archive(tmp_path / "small", 2_000_000), archive(tmp_path / "large", one_stage)
    script = BUILDER.replace('cp "$ARCHIVE"', 'case $3 in *single*) ARCHIVE=$LARGE;; esac; cp "$ARCHIVE"')
    chooser = tmp_path / "chooser"
    chooser.write_text(script)
    chooser.chmod(0o755)
    done = run(tmp_path, "size", "--json", IMAGE_BUILD=str(chooser), ARCHIVE=str(small), LARGE=str(large))
    assert done.returncode == code, done.stderr
    assert '"several_stages_mb": 2.0' in done.stdout


@pytest.mark.parametrize("tool", ["docker", "podman", "buildah"])
def test_the_usual_builders_are_asked_in_their_own_words(tmp_path: Path, tool: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    fake = folder / tool
    fake.write_text('#!/bin/sh\necho "$SOURCE_DATE_EPOCH $*" >> "$CALLS"\n')
    fake.chmod(0o755)
    done = run(tmp_path, "build", "shop", IMAGE_BUILD="", PATH=str(folder))
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "calls").read_text()
    assert said.startswith("0 build ")
    assert f"--file {PLATFORM}/Dockerfile --tag aftershock/shop:dev {PROJECT}" in said
    assert ("--timestamp 0 --format docker" in said) == (tool != "docker")
