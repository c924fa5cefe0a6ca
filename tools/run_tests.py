# SPDX-License-Identifier: Apache-2.0
"""Runs all tests in stages, side by side where cores are free, and says where the time went.

    python tools/run_tests.py [--long] [--seed N] [--since SECONDS] [STAGE ...]

The contract tests run on each supported vLLM release: on the installed one as things are here, on
the two others in a strange place: a machine that has been up for seconds, or for years, in another
time zone, with another locale, with an empty home folder. So do the unit tests, on both machines.
Order and hashes follow a seed that is printed; --seed N repeats it. A stage that takes too long is
ended, and shows the stacks of its threads.
"""

import argparse
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import psutil
from other_vllm import CACHE, prepare_release

ROOT = Path(__file__).resolve().parent.parent
LOGS = CACHE / "tests"
PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest", "-q", "-p", "tests.collect_guard")
"""A test file that collects no test fails the run."""
ALL_CORES = 2
JUST_STARTED_S, YEARS_S = 5, 10 * 365 * 86400
RELEASES = ("0.31.0", "0.32.0", "0.33.0")
INSTALLED = "0.32.0"
TAG = "HYGEN_TEST_STAGE"
"""Environment variable that all processes of a stage have."""
FOLDERS_OF_A_USER = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "MPLCONFIGDIR")
"""Environment variables that would lead past an empty home folder."""
CHANGE_TESTS = ("PYTEST_", "PYTHONOPTIMIZE")
"""Variables beginning so would leave tests out, or their assertions."""
NO_TEST = "no test"
"""Status of a stage of pytest that ran none."""
STACK_S = 10.0
"""How long a stage that was told to end may take to write its stacks."""
SHOWN_LINES, SHOWN_FILES = 60, 12


@dataclass(frozen=True)
class Place:
    """Where tests run, in all that must not matter to them.

    Args:
        uptime_s: seconds since the machine was started; None: its own.
        release: of vLLM; None: the installed one.
        is_ascii: text files without an encoding are ASCII.
    """

    uptime_s: int | None = None
    release: str | None = None
    time_zone: str = ""
    locale: str = ""
    has_empty_home: bool = False
    is_ascii: bool = False

    def environment(self, home: str) -> dict[str, str]:
        """Return all variables of the place; `home` is an empty folder."""
        hidden = FOLDERS_OF_A_USER if self.has_empty_home else ()
        env = {
            name: value
            for name, value in os.environ.items()
            if name not in hidden and not name.startswith(CHANGE_TESTS)
        }
        env["HYGEN_CACHE"] = str(model_cache())
        if self.release is not None:
            env["PYTHONPATH"] = prepare_release(self.release, with_tests=True)
        if self.time_zone:
            env["TZ"] = self.time_zone
        if self.locale:
            env["LC_ALL"] = self.locale
        if self.is_ascii:
            # Else Python takes UTF-8 where the locale is C. Torch cannot be imported like this.
            env |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        if self.has_empty_home:
            # Without its cache vLLM starts a process for each model class that it looks into.
            env |= {"HOME": home, "VLLM_CACHE_ROOT": str(CACHE / "vllm-cache")}
        return env


@dataclass(frozen=True)
class Stage:
    """A command that has to succeed.

    Args:
        cores: that it keeps busy, all that it starts taken together.
        limit_s: after which it is ended.
        needs: the stages that have to end before.
        is_pytest: it takes pytest's options.
    """

    name: str
    command: tuple[str, ...]
    cores: int = 1
    limit_s: float = 900.0
    place: Place = Place()
    needs: tuple[str, ...] = ()
    is_pytest: bool = True
    env: dict[str, str] = field(default_factory=dict)

    def unless(self, failed: Collection[str]) -> "Stage":
        """Return the stage, or one that fails with the reason if what it needs has failed."""
        if not set(self.needs) & set(failed):
            return self
        code = f"raise SystemExit('not run: {', '.join(self.needs)} failed')"
        return replace(self, command=(PYTHON, "-c", code), place=Place(), is_pytest=False)


def pytest_stage(name: str, *arguments: str, **options: object) -> Stage:
    return Stage(name, (*PYTEST, *arguments), **options)  # type: ignore[arg-type]


def script(name: str, *command: str, **options: object) -> Stage:
    return Stage(name, (PYTHON, *command), is_pytest=False, **options)  # type: ignore[arg-type]


def own_tests(release: str) -> Stage:
    command = "tools/vllm_own_tests.py", release
    return script(f"vLLM's own, {release}", *command, limit_s=900.0, needs=(GET_RELEASES,))


NEW_MACHINE = Place(JUST_STARTED_S, "0.31.0", "Pacific/Chatham", "C", has_empty_home=True)
NEW_ASCII_MACHINE = replace(NEW_MACHINE, release=None, is_ascii=True)
OLD_MACHINE = Place(YEARS_S, "0.33.0", "America/St_Johns", "POSIX", has_empty_home=True)
CONTRACT = ("tests/contract", "tests/properties")
PURE = ("tests/unit", *CONTRACT)
BOTH_CORES = ("-n", "2")
BY_FILE = ("-n", "3", "--dist", "loadfile")
"""Three files at a time, since engines also wait. The tests of a file share engines."""
LIMIT_S = 2700.0
"""Of a stage whose tests have limits of 1,500 s, so that these end first. A machine may be several
times slower than the one on which a stage takes 400 s."""
QUICK = ("experiments/run.py", "--quick")
SOME_EXPERIMENTS = ("10", "12", "13", "26")
"""One of each kind; the others are in the long stages."""
GET_RELEASES, GET_MODEL = "get releases", "get model"
PREPARE = (
    script(GET_RELEASES, "tools/other_vllm.py", "--with-tests", *RELEASES),
    script(GET_MODEL, "-m", "hygen_vllm.lab.small_model"),
)
STAGES = (
    *PREPARE,
    pytest_stage(
        *("Ray", "tests/ray_serving", "-m", "not two_replicas and not long"),
        limit_s=LIMIT_S,
        needs=(GET_MODEL,),
    ),
    pytest_stage("0.31, just started", *CONTRACT, place=NEW_MACHINE, needs=(GET_RELEASES,)),
    pytest_stage("0.33, up for years", *PURE, place=OLD_MACHINE, needs=(GET_RELEASES,)),
    pytest_stage("simulator", "tests/simulator"),
    pytest_stage("unit, just started", "tests/unit", place=NEW_ASCII_MACHINE),
    pytest_stage(INSTALLED, *CONTRACT),
    own_tests(INSTALLED),
    pytest_stage(
        *("engines", *BY_FILE, "tests/engine", "-m", "not long"),
        cores=2,
        limit_s=LIMIT_S,
        needs=(GET_MODEL,),
    ),
    script("experiments", *QUICK, *SOME_EXPERIMENTS, cores=2, limit_s=900.0),
)
"""Of those that keep one core busy the long ones first, so that both are busy to the end."""
LONG_STAGES = (
    *PREPARE,
    pytest_stage(
        *("random traffic", *BOTH_CORES, "tests/properties", "--timeout", "3600"),
        cores=2,
        limit_s=7200.0,
        env={"RANDOM_EXAMPLES": "5000"},
    ),
    pytest_stage(
        *("engines, long", "tests/engine", "-m", "long"), limit_s=LIMIT_S, needs=(GET_MODEL,)
    ),
    pytest_stage(
        *("Ray, two replicas", "tests/ray_serving", "-m", "two_replicas"),
        cores=2,
        limit_s=3600.0,
        needs=(GET_MODEL,),
    ),
    *(
        pytest_stage(
            *(f"simulator, {release}", "tests/simulator"),
            place=Place(release=release),
            needs=(GET_RELEASES,),
        )
        for release in RELEASES
        if release != INSTALLED
    ),
    *(own_tests(release) for release in RELEASES if release != INSTALLED),
    pytest_stage(
        *("Ray, long", "tests/ray_serving", "-m", "long"), limit_s=LIMIT_S, needs=(GET_MODEL,)
    ),
    pytest_stage("unit, as things are here", "tests/unit"),
    script("all experiments", *QUICK, cores=2, limit_s=1800.0),
    script("speed", "experiments/check_speed.py", cores=2, limit_s=3600.0),
)


class Running:
    """A stage that was started; its output goes into a log."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.log = LOGS / f"{stage.name}.log"
        self.report = LOGS / f"{stage.name}.xml"
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [*stage.command]
        if stage.is_pytest:
            command += [f"--junitxml={self.report}", f"--randomly-seed={seed}"]
            command += [f"--hypothesis-seed={seed}"]
        if stage.place.uptime_s is not None:
            command = at_uptime(command, stage.place.uptime_s)
        self._tag = f"{os.getpid()} {stage.name}"
        env = stage.place.environment(self._home.name)
        env |= {"PYTHONHASHSEED": str(seed), "PYTHONFAULTHANDLER": "1", TAG: self._tag}
        env["SPT_NOENV"] = "1"  # processes that change their title keep their environment readable
        env["PYTHONWARNDEFAULTENCODING"] = "1"  # an error where it is ours, see pyproject.toml
        env |= stage.env
        self._file: IO[bytes] = self.log.open("wb")
        self.started_s = time.monotonic()
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.seconds = self.cpu_s = 0.0
        self.status: int | str | None = None
        self._ends_by_s = self.started_s + stage.limit_s

    def has_ended(self) -> bool:
        """Look whether it has ended; end it if its time is over."""
        before_s = _cpu_of_ended_children()
        self.status = self._process.poll()
        self.cpu_s = _cpu_of_ended_children() - before_s
        if self.status is None and time.monotonic() > self._ends_by_s:
            self._show_stacks()
            self.status = -signal.SIGKILL
        if self.status is None:
            return False
        self.seconds = time.monotonic() - self.started_s
        self.kill()
        if self.stage.is_pytest and self.status == 0 and not self.tests():
            self.status = NO_TEST
        return True

    def kill(self) -> None:
        """End whatever it has left running, in whatever session that is."""
        for process in self._processes():
            with suppress(psutil.Error):
                process.kill()
        self._process.kill()
        self._process.wait()
        self._file.close()
        self._home.cleanup()

    def _show_stacks(self) -> None:
        """Let its Python processes write their stacks, which ends them."""
        for process in self._processes():
            with suppress(psutil.Error):
                process.send_signal(signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STACK_S)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(TAG) == self._tag:
                    found.append(process)
        return found

    def tests(self) -> list[tuple[str, float]]:
        """Return (file, seconds) of each of its tests."""
        return [(_file_of(case), float(case.get("time") or 0.0)) for case in self._cases()]

    def failures(self) -> list[str]:
        """Return a line for each test that failed: its name and the first line of why."""
        return [
            f"{_file_of(case)} {case.get('name')}: {(found.get('message') or '?').splitlines()[0]}"
            for case in self._cases()
            for found in (*case.iter("failure"), *case.iter("error"))
        ]

    def _cases(self) -> list[ET.Element]:
        if not self.report.exists():
            return []
        return [*ET.parse(self.report).iter("testcase")]  # noqa: S314 - pytest wrote it

    def tail(self) -> str:
        """Return the end of its output: more of it if it failed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-SHOWN_LINES if self.status else -1 :])


def _cpu_of_ended_children() -> float:
    """CPU seconds of all processes that were started here and have ended, with their children."""
    times = os.times()
    return times.children_user + times.children_system


def _file_of(case: ET.Element) -> str:
    parts = (case.get("classname") or "?").split(".")
    return "/".join(part for part in parts if not part[:1].isupper())


def model_cache() -> Path:
    """Return the folder of the small model, which an empty home would hide."""
    return Path(os.environ.get("HYGEN_CACHE") or Path.home() / ".cache" / "hygen")


def at_uptime(command: Sequence[str], uptime_s: int) -> list[str]:
    """Return a command that runs as if the machine had been started that long ago.

    In a time namespace if the kernel and our rights allow it; else the tests move Python's clock.
    """
    offset = str(math.ceil(uptime_s - time.monotonic()))
    prefix = ["unshare", "--time", f"--monotonic={offset}", f"--boottime={offset}"]
    code = f"import time; assert abs(time.monotonic() - {uptime_s}) < 60"
    try:
        probe = subprocess.run([*prefix, PYTHON, "-c", code], check=False, capture_output=True)
    except OSError:
        return [*command, f"--uptime={uptime_s}"]
    return [*prefix, *command] if probe.returncode == 0 else [*command, f"--uptime={uptime_s}"]


def run_all(stages: Sequence[Stage], seed: int) -> list[Running]:
    """Run stages, in order, as many at a time as cores allow; return them as they ended."""
    waiting, running, done = list(stages), list[Running](), list[Running]()
    started_s = time.monotonic()
    try:
        while waiting or running:
            for each in [r for r in running if r.has_ended()]:
                running.remove(each)
                done.append(each)
                word = "passed" if each.status == 0 else f"FAILED ({each.status})"
                print(f"[{time.monotonic() - started_s:4.0f} s] {each.stage.name}: {word}")
                print(each.tail(), flush=True)
            free = ALL_CORES - sum(each.stage.cores for each in running)
            busy = {stage.name for stage in waiting} | {each.stage.name for each in running}
            fits = next((s for s in waiting if s.cores <= free and busy.isdisjoint(s.needs)), None)
            if fits is not None:
                waiting.remove(fits)
                print(f"[{time.monotonic() - started_s:4.0f} s] {fits.name} ...", flush=True)
                failed = {each.stage.name for each in done if each.status}
                running.append(Running(fits.unless(failed), seed))
            else:
                time.sleep(0.2)
    finally:
        for each in running:
            each.kill()
    return done


def print_table(done: Sequence[Running], setup_s: float, total_s: float) -> None:
    print(f"\n{'stage':28} {'':6} {'seconds':>8} {'CPU':>6} {'tests':>6}")
    if setup_s:
        print(f"{'set-up':28} {'':6} {setup_s:8.0f}")
    of_file: dict[str, list[float]] = defaultdict(list)
    for each in done:
        tests = each.tests()
        for file, seconds in tests:
            of_file[file].append(seconds)
        word = "ok" if each.status == 0 else "FAILED"
        count = str(len(tests) or "")
        cpu = f"{each.cpu_s:6.0f}"
        print(f"{each.stage.name:28} {word:6} {each.seconds:8.0f} {cpu} {count:>6}")
    print(f"{'all':28} {'':6} {setup_s + total_s:8.0f}")
    slowest = sorted(of_file.items(), key=lambda item: -sum(item[1]))[:SHOWN_FILES]
    if slowest:
        print(f"\n{'slowest files, all releases':42} {'seconds':>8} {'tests':>6}")
    for file, times in slowest:
        print(f"{file:42} {sum(times):8.1f} {len(times):6}")
    for each in done:
        for line in each.failures():
            print(f"\n{each.stage.name}: {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = {stage.name: stage for stage in (*STAGES, *LONG_STAGES)}
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of: {'; '.join(known)}")
    parser.add_argument("--long", action="store_true", help="the stages of make test-long")
    parser.add_argument("--seed", type=int, help="of the order of tests and of hashes")
    parser.add_argument("--since", type=float, help="when the set-up began, seconds since 1970")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("terminated"))  # stages end with us
    if unknown := set(options.stages) - set(known):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {'; '.join(known)}")
    stages = LONG_STAGES if options.long else STAGES
    if options.stages:
        stages = tuple(stage for name, stage in known.items() if name in options.stages)
    seed = options.seed if options.seed is not None else random.randrange(1, 2**32)
    setup_s = max(0.0, time.time() - options.since) if options.since else 0.0
    LOGS.mkdir(parents=True, exist_ok=True)
    for old in filter(Path.is_file, LOGS.iterdir()):
        old.unlink()
    print(f"seed {seed}; logs in {LOGS.relative_to(ROOT)}", flush=True)
    started_s = time.monotonic()
    done = run_all(stages, seed)
    print_table(done, setup_s, time.monotonic() - started_s)
    if failed := [each.stage.name for each in done if each.status]:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
