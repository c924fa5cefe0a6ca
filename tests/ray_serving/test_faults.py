# SPDX-License-Identifier: Apache-2.0
"""Two replicas under both classes while something dies. `make test-ray` prints what it measured."""

import json
import os
import signal
import statistics
import sys
import threading
import time

import httpx
import psutil
import pytest

from hygen_vllm.ray_serving.app_config import AppConfig

pytestmark = [pytest.mark.engine, pytest.mark.two_replicas, pytest.mark.timeout(900)]
REPLICA, ENGINE = "ray::ServeReplica:default:HyGenServer", "VLLM::EngineCore"
POOL = "ray::ServeReplica:default:OfflinePool"
STANDSTILL, JOB_INTERRUPTED, JOB_KILLED = "standstill", "job interrupted", "job killed"
STANDS_STILL_S = 2 * AppConfig.model_fields["lease_s"].default
TIMES = int(os.environ.get("FAULT_TIMES", "1"))
"""How often each fault is made."""
ROWS = 60
ONLINE_EVERY_S = 0.25


def write_rows(path, count=ROWS):
    rows = [
        {
            "custom_id": f"row-{i}",
            "url": "/v1/chat/completions",
            "body": {
                "messages": [{"role": "user", "content": f"Tell me of the number {i}."}],
                "max_tokens": 24,
                "temperature": 0.0,
            },
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {row["custom_id"] for row in rows}


def lines_of(path):
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def wait_for_results(path, count, limit_s=180.0):
    deadline_s = time.monotonic() + limit_s
    while len(lines_of(path)) < count:
        assert time.monotonic() < deadline_s, f"{len(lines_of(path))} results"
        time.sleep(0.2)


class OnlineLoad:
    """Somebody asks a short question again and again; what came of each."""

    def __init__(self, app):
        self._app = app
        self._ends = threading.Event()
        self.answers = []
        """(seconds since the start, seconds it took, status, text)."""
        self._threads = []
        self._started_s = time.monotonic()
        self._asking = threading.Thread(target=self._ask_on)

    def __enter__(self):
        self._asking.start()
        return self

    def __exit__(self, *_):
        self._ends.set()
        self._asking.join()
        for thread in self._threads:
            thread.join()

    def _ask_on(self):
        while not self._ends.wait(ONLINE_EVERY_S):
            self._threads.append(threading.Thread(target=self._ask))
            self._threads[-1].start()

    def _ask(self):
        asked_s = time.monotonic()
        response = self._app.chat("Hi", max_tokens=2)
        now_s = time.monotonic()
        self.answers.append(
            (asked_s - self._started_s, now_s - asked_s, response.status_code, response.text[:200])
        )

    @property
    def failed(self):
        return [answer for answer in self.answers if answer[2] != 200]


def report(what, load, killed_s):
    """Say how long online requests noticed."""
    failed_s = [asked_s - killed_s for asked_s, *_ in load.failed]
    after_s = [took_s for asked_s, took_s, *_ in load.answers if asked_s + took_s > killed_s]
    sys.stdout.write(
        f"\n{what} killed: {len(load.answers)} online requests, {len(load.failed)} failed, the "
        f"last {max(failed_s, default=0.0):.1f} s after it; then one took {max(after_s):.1f} s "
        f"at most, {statistics.median(after_s):.1f} s in the median\n"
    )


@pytest.mark.parametrize("victim", [REPLICA, ENGINE], ids=["replica", "engine"])
def test_nothing_is_lost_when_one_is_killed(two_replicas, tmp_path, victim):
    """Offline work goes to the other one, online requests are tried once more."""
    app, out = two_replicas, tmp_path / "out.jsonl"
    app.wait_for(2)
    wanted = write_rows(tmp_path / "in.jsonl")
    job = app.batch(tmp_path / "in.jsonl", "--out", out, wait=False)
    with OnlineLoad(app) as load:
        wait_for_results(out, 8)
        killed_s = time.monotonic() - load._started_s
        app.processes(victim)[0].kill()
        _, errors = job.communicate(timeout=300.0)
        time.sleep(5.0)
    report(victim, load, killed_s)
    assert 0 == job.returncode, errors
    results = lines_of(out)
    assert sorted(wanted) == sorted(row["custom_id"] for row in results)
    assert [] == [row for row in results if row["error"] is not None]
    assert [] == load.failed


def test_stream_of_a_dead_replica_ends_with_an_error(two_replicas):
    """It does not end as if all had been said."""
    app = two_replicas
    app.wait_for(2)
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": "Tell me a long story."}],
        "max_tokens": 400,
        "ignore_eos": True,
        "stream": True,
    }
    ends = []

    def read():
        url = f"{app.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=240.0) as stream:
            ends.append([line for line in stream.iter_lines() if line][-2:])

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(6.0)
    app.processes(REPLICA)[0].kill()
    for thread in threads:
        thread.join()
    assert 6 == len(ends)
    assert {"data: [DONE]"} == {last for _, last in ends}
    broken = [line for line, _ in ends if '"error"' in line]
    assert 1 <= len(broken) <= 5
    sys.stdout.write(f"\n{len(broken)} of 6 streams broke off: {broken[0]}\n")


def test_job_goes_on_after_its_driver_was_killed(two_replicas, tmp_path):
    """What was written stays as it was, the rest is done, nothing twice."""
    app, out = two_replicas, tmp_path / "out.jsonl"
    app.wait_for(2)
    wanted = write_rows(tmp_path / "in.jsonl")
    job = app.batch(tmp_path / "in.jsonl", "--out", out, wait=False)
    wait_for_results(out, 16)
    job.kill()
    job.communicate()
    first = lines_of(out)
    again = app.batch(tmp_path / "in.jsonl", "--out", out, "--resume")
    assert 0 == again.returncode, again.err
    results = lines_of(out)
    assert first == results[: len(first)]
    assert sorted(wanted) == sorted(row["custom_id"] for row in results)


def test_replicas_come_and_go_under_load(two_replicas, tmp_path):
    """One is taken away and one is added while both classes run."""
    app, out = two_replicas, tmp_path / "out.jsonl"
    app.wait_for(2)
    wanted = write_rows(tmp_path / "in.jsonl", 2 * ROWS)
    job = app.batch(tmp_path / "in.jsonl", "--out", out, wait=False)
    with OnlineLoad(app) as load:
        wait_for_results(out, 8)
        app.scale(1)
        app.wait_for(1)
        app.scale(2)
        app.wait_for(2)
        _, errors = job.communicate(timeout=300.0)
    assert 0 == job.returncode, errors
    results = lines_of(out)
    assert sorted(wanted) == sorted(row["custom_id"] for row in results)
    assert [] == [row for row in results if row["error"] is not None]
    assert [] == load.failed


def write_echo_rows(path, count=ROWS):
    """Write requests whose answers say whose they are; return their prompts by custom_id."""
    prompts = {f"row-{i}": f"Row {i} of {path.name}: the" for i in range(count)}
    rows = [
        {
            "custom_id": name,
            "url": "/v1/completions",
            "body": {"prompt": prompt, "echo": True, "max_tokens": 24, "ignore_eos": True},
        }
        for name, prompt in prompts.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prompts


def stand_still(app):
    """Stop a replica and its engine for longer than its work is lent; let them go on."""
    replica = app.processes(REPLICA)[0]
    stopped = [replica, *replica.children(recursive=True)]
    for process in stopped:
        process.suspend()
    time.sleep(STANDS_STILL_S)
    for process in stopped:
        try:
            process.resume()
        except psutil.NoSuchProcess:  # Serve has replaced it
            continue


@pytest.mark.timeout(600 + 400 * TIMES)
@pytest.mark.parametrize("fault", [POOL, REPLICA, ENGINE, STANDSTILL, JOB_INTERRUPTED, JOB_KILLED])
def test_each_row_gets_its_own_answer_once(two_replicas, tmp_path, fault):
    """Whatever ends or stands still in the middle of a job: no row is lost, doubled or swapped."""
    app = two_replicas
    for number in range(TIMES):
        app.wait_for(2)
        rows, out = tmp_path / f"in-{number}.jsonl", tmp_path / f"out-{number}.jsonl"
        prompts = write_echo_rows(rows)
        job = app.batch(rows, "--out", out, wait=False)
        wait_for_results(out, 8 + 3 * number % 40)
        if fault == STANDSTILL:
            stand_still(app)
        elif fault in (JOB_INTERRUPTED, JOB_KILLED):
            job.send_signal(signal.SIGINT if fault == JOB_INTERRUPTED else signal.SIGKILL)
            job.communicate(timeout=60.0)
            job = app.batch(rows, "--out", out, "--resume", wait=False)
        else:
            app.processes(fault)[0].kill()
        _, errors = job.communicate(timeout=400.0)
        assert 0 == job.returncode, errors
        results = lines_of(out)
        assert sorted(prompts) == sorted(row["custom_id"] for row in results)
        for row in results:
            assert row["error"] is None, row
            (choice,) = row["response"]["body"]["choices"]
            assert choice["text"].startswith(prompts[row["custom_id"]]), row
