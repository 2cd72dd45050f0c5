"""Builds the project's images with whatever builds images here: `python platform/images.py build|size`.

IMAGE_BUILD names a program that is called as `PROGRAM CONTEXT DOCKERFILE TAG ARCHIVE`; without it docker, podman or buildah is taken, the
first that there is. An archive is what `docker load`, `podman load` and `ctr images import` read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SMALLER = 0.70  # than one stage with what builds it inside


@dataclass(frozen=True)
class Image:
    """One image: its name in the manifests, and what it is built from."""

    tag: str
    dockerfile: str


IMAGES = {
    "shop": Image("aftershock/shop:dev", "platform/Dockerfile"),
    "postgres": Image("aftershock/postgres:18", "platform/postgres.Dockerfile"),
    "runner": Image("aftershock/runner:dev", "platform/runner.Dockerfile"),
}
SINGLE = Image("aftershock/shop:single-stage", "platform/single.Dockerfile")


def commands(image: Image, archive: Path | None) -> list[list[str]]:
    """What to run; with an archive at the end if one is asked for. Raises SystemExit when nothing here builds images."""
    if program := os.environ.get("IMAGE_BUILD"):
        target = archive or Path(os.devnull)
        return [[program, str(PROJECT), image.dockerfile, image.tag, str(target)]]
    tool = next((t for t in ("docker", "podman", "buildah") if shutil.which(t)), None)
    if tool is None:
        sys.exit("error: no docker, podman or buildah here\nhint: install one, or name a program in IMAGE_BUILD")
    # Times in the layers are fixed, so that what did not change keeps its digest; HEALTHCHECK needs Docker's format.
    fixed = [] if tool == "docker" else ["--timestamp", "0", "--format", "docker"]
    built = [tool, "build", *fixed, "--file", str(PROJECT / image.dockerfile), "--tag", image.tag, str(PROJECT)]
    if archive is None:
        return [built]
    if tool == "buildah":
        return [built, [tool, "push", image.tag, f"docker-archive:{archive}:{image.tag}"]]
    return [built, [tool, "save", "--output", str(archive), image.tag]]


def build(image: Image, archive: Path | None) -> None:
    """Build one image. Raises SystemExit with what the builder said last."""
    for command in commands(image, archive):
        print(f"{image.tag}: {command[0]} {command[1]} ...", file=sys.stderr)
        done = subprocess.run(
            command,
            cwd=PROJECT,
            env={**os.environ, "SOURCE_DATE_EPOCH": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            said = "\n".join(done.stdout.splitlines()[-30:])
            sys.exit(f"{said}\nerror: {image.tag}: {command[0]} ended with {done.returncode}")


def layers(archive: Path) -> list[tuple[str, int]]:
    """The layers of a docker archive: each one's name and unpacked bytes."""
    with tarfile.open(archive) as tar:
        found = tar.extractfile("manifest.json")
        if found is None:
            raise ValueError(f"{archive} has no manifest")
        names = json.load(found)[0]["Layers"]
        return [(name, tar.getmember(name).size) for name in names]


def size_mb(archive: Path) -> float:
    """What an image takes unpacked, all layers together."""
    return sum(size for _, size in layers(archive)) / 1e6


def main() -> int:
    """0; 1 if the image is not small enough; SystemExit when it cannot be built."""
    parser = argparse.ArgumentParser("platform/images.py", description="Build the images, or measure the shop's.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("build", help="build them all, or those named")
    making.add_argument("names", nargs="*", metavar="NAME", help=", ".join(IMAGES))
    making.add_argument("--archives", type=Path, metavar="DIR", help="write NAME.tar there as well")
    sizing = verbs.add_parser("size", help="the shop in several stages beside the shop in one")
    sizing.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.verb == "size":
        return measure(given.json)
    if unknown := set(given.names) - set(IMAGES):
        parser.error(f"there is no image {', '.join(sorted(unknown))}")
    folder: Path | None = given.archives
    if folder is None and os.environ.get("IMAGE_BUILD"):
        parser.error("with IMAGE_BUILD say where the archives go: --archives DIR")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    for name in given.names or IMAGES:
        archive = folder and folder.resolve() / f"{name}.tar"
        build(IMAGES[name], archive)
        print(f"{IMAGES[name].tag}{f'  {size_mb(archive):.0f} MB  {archive}' if archive else ''}")
    return 0


def measure(as_json: bool) -> int:
    """Build both, print both sizes and how much smaller the one is; 1 if that is less than promised."""
    with tempfile.TemporaryDirectory() as scratch:
        sizes = {}
        for name, image in (("several_stages_mb", IMAGES["shop"]), ("one_stage_mb", SINGLE)):
            archive = Path(scratch) / f"{name}.tar"
            build(image, archive)
            sizes[name] = round(size_mb(archive), 1)
            archive.unlink()
    smaller = 1 - sizes["several_stages_mb"] / sizes["one_stage_mb"]
    if as_json:
        print(json.dumps({**sizes, "smaller": round(smaller, 4), "promised": SMALLER}))
    else:
        print(f"several stages {sizes['several_stages_mb']:.0f} MB, one stage {sizes['one_stage_mb']:.0f} MB:"
              f" {smaller:.1%} smaller (promised {SMALLER:.0%})")  # fmt: skip
    return 0 if smaller >= SMALLER else 1


if __name__ == "__main__":
    sys.exit(main())
