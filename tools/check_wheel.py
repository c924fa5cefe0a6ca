# SPDX-License-Identifier: Apache-2.0
"""Build the package, install its wheel where nothing else is, and serve two requests with it.

    python tools/check_wheel.py [--no-isolation]

An empty environment shows what a user has without vLLM. In a second one the vLLM of this one lies
behind the wheel, and a real engine with the small model runs on it. Everything is made in a
temporary folder. Exit 1 with what went wrong and the end of the output. Takes 2 to 4 minutes.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TAIL_CHARACTERS = 4000
INSTALL_LIMIT_S, COMMAND_LIMIT_S, ENGINE_LIMIT_S = 900.0, 60.0, 400.0
BUILD_FILES = {"LICENSE", "README.md", "pyproject.toml", "setup.py"}
NOT_SOURCE = (".*", "__pycache__", "*.egg-info", "build", "dist", "demo-results")
PROFILE_FILES = ("profile.json", "device.json")
DATA_FILES = ("py.typed", "lab/report/page.html")
BAD_ARGUMENTS = 2
ENGINE_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
IMPORT = """
import importlib.util, sys
import hygen_vllm, hygen_vllm.lab.cli
from hygen_vllm import ConfigError, HyGenConfig, RequestClass
from hygen_vllm.cost.profile import load_profile

assert hygen_vllm.__file__.startswith(sys.prefix), hygen_vllm.__file__
for name in ("vllm", "torch"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed"
    assert name not in sys.modules, f"{name} is imported"
for name in sys.argv[1:]:
    load_profile(name)
"""
"""Run without vLLM, with the names of the profiles that ship."""
SIMULATE = (
    *("simulate", "--profile", "a100-llama2-7b", "--policy", "slo"),
    *("--online", "poisson", "--online-rate", "1", "--seconds", "5", "--json", "-"),
)
RESULTS = ("online: ", "offline: ", "served by ")
"""How the lines begin that tools/serve_two_requests.py has to say."""


class StepError(Exception):
    """What went wrong in a step, with the end of what its command wrote."""


def main() -> None:
    """Do all steps in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--no-isolation", action="store_true", help="build with the setuptools that is installed"
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # commands end with us
    build_options = ["--no-isolation"] if parser.parse_args().no_isolation else []
    with tempfile.TemporaryDirectory(prefix="hygen-wheel-") as name:
        folder = Path(name)
        with step("build the sdist, and the wheel from it"):
            # A copy: lists of files that earlier builds left in the tree have no say.
            shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_SOURCE))
            build = [sys.executable, "-m", "build", "--outdir", str(folder / "dist")]
            succeed([*build, *build_options, str(folder / "source")], folder, INSTALL_LIMIT_S)
        wheel = next((folder / "dist").glob("*.whl"))
        with step("look into both"):
            check_contents(next((folder / "dist").glob("*.tar.gz")), wheel)
        check_without_vllm(folder, wheel)
        check_with_vllm(folder, wheel)


def check_without_vllm(folder: Path, wheel: Path) -> None:
    """Install the wheel and what it needs into an empty environment, and use it there."""
    with step("install the wheel and what it needs"):
        commands = new_environment(folder / "empty", [str(wheel)])
    hygen = str(commands / "hygen")
    with step("hygen --help, hygen --version"):
        expect("usage: hygen ", succeed([hygen, "--help"], folder))
        expect(f"hygen {wheel.name.split('-')[1]}\n", succeed([hygen, "--version"], folder))
    with step("import, and read the profiles that ship"):
        succeed([str(commands / "python"), "-c", IMPORT, *profile_names()], folder)
    with step("hygen simulate says that vLLM is missing"):
        status, output = run([hygen, *SIMULATE], folder)
        if (status, output.count("\n")) != (BAD_ARGUMENTS, 1):
            raise failure(
                [hygen, *SIMULATE], f"should end with 2 and one line, not {status}", output
            )
        expect("pip install 'hygen-vllm[vllm]'", output)


def check_with_vllm(folder: Path, wheel: Path) -> None:
    """Serve with the wheel before the vLLM of this environment."""
    with step("convert the small model, if it is not there"):
        printed = succeed(
            [sys.executable, "-m", "hygen_vllm.lab.small_model"], ROOT, ENGINE_LIMIT_S
        )
        model = printed.splitlines()[-1]
    with step("install the wheel before this environment's vLLM"):
        commands = new_environment(folder / "before", ["--no-deps", str(wheel)])
        # Appended to sys.path. The .pth files in it, an editable install among them, are not read.
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        site_packages = next((folder / "before").glob("lib/python*/site-packages"))
        (site_packages / "vllm_behind.pth").write_text("\n".join(paths), encoding="utf-8")
    with step("serve an online and an offline request"):
        script = str(ROOT / "tools" / "serve_two_requests.py")
        command = [str(commands / "python"), script, model, str(folder / "steps.csv")]
        output = succeed(command, folder, ENGINE_LIMIT_S)
    print(*(line for line in output.splitlines() if line.startswith(RESULTS)), sep="\n")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print a step and its seconds; exit 1 with the reason if it fails."""
    print(name, end=": ", flush=True)
    start_s = time.monotonic()
    try:
        yield
    except StepError as error:
        print("failed", flush=True)
        sys.exit(str(error))
    print(f"{time.monotonic() - start_s:.1f} s", flush=True)


def run(command: Sequence[str], folder: Path, limit_s: float = COMMAND_LIMIT_S) -> tuple[int, str]:
    """Run a command in a folder; return its status, and stdout and stderr as one text.

    Nothing that it started is left. It sees neither this repository nor settings of HyGen.
    Raises: StepError after limit_s.
    """
    hidden = ("PYTHON", "HYGEN_CONFIG")
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith(hidden)}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**inherited, **ENGINE_ENVIRONMENT, "PYTHONNOUSERSITE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        is_done = True
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            is_done = False
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        output = log.read()
    if not is_done:
        raise failure(command, f"was not done after {limit_s:g} s", output)
    return process.returncode, output


def succeed(command: Sequence[str], folder: Path, limit_s: float = COMMAND_LIMIT_S) -> str:
    """Return what a command wrote. Raises StepError if its status is not 0."""
    status, output = run(command, folder, limit_s)
    if status != 0:
        raise failure(command, f"ended with {status}", output)
    return output


def failure(command: Sequence[str], what: str, output: str) -> StepError:
    return StepError(f"{shlex.join(command)} {what}:\n{output[-TAIL_CHARACTERS:]}")


def expect(text: str, output: str) -> None:
    """Raise StepError if a text is not in what was written."""
    if text not in output:
        raise StepError(f"expected {text!r} in:\n{output[-TAIL_CHARACTERS:]}")


def new_environment(folder: Path, packages: Sequence[str]) -> Path:
    """Make an environment with these packages; return the folder of its commands."""
    succeed([sys.executable, "-m", "venv", str(folder)], folder.parent)
    commands = folder / "bin"
    pip = [str(commands / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    succeed([*pip, "--quiet", *packages], folder, INSTALL_LIMIT_S)
    return commands


def check_contents(sdist: Path, wheel: Path) -> None:
    """Raise StepError if a file is missing, or in the wheel and not of the package."""
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hygen_vllm").rglob("*.py")}
    profiles = {path.relative_to(ROOT).as_posix() for path in profile_files()}
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive_of_wheel:
        in_wheel = set(archive_of_wheel.namelist())
    about = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/"
    package = modules | {f"hygen_vllm/{name}" for name in (*profiles, *DATA_FILES)}
    report("missing in the sdist", (modules | profiles | BUILD_FILES) - in_sdist)
    report("missing in the wheel", (package | {f"{about}licenses/LICENSE"}) - in_wheel)
    report("in the wheel", {name for name in in_wheel if not name.startswith(about)} - package)


def report(problem: str, names: Iterable[str]) -> None:
    """Raise StepError if there are names with this problem."""
    if listed := sorted(names):
        raise StepError(f"{problem}: {', '.join(listed)}")


def profile_files() -> list[Path]:
    """Return the profiles that ship, and the models of their devices."""
    return [path for name in PROFILE_FILES for path in sorted(ROOT.glob(f"profiles/*/*/{name}"))]


def profile_names() -> list[str]:
    folders = [path.parent for path in profile_files() if path.name == "profile.json"]
    return [f"{folder.parent.name}-{folder.name}" for folder in folders]


if __name__ == "__main__":
    main()
