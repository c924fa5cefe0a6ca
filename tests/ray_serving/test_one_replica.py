# SPDX-License-Identifier: Apache-2.0
"""An application with one replica: both classes, batch files, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from tests.ray_serving.conftest import RAY_ENVIRONMENT, TARGET

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]
OFFLINE = {"vllm_xargs": {"slo_class": "offline"}}
TOO_LONG = "word " * 600
MOST_PROCESSES = 12
"""Of a job, whatever its size."""


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def batch_lines(count):
    return [
        {
            "custom_id": f"row-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "small",
                "messages": [{"role": "user", "content": f"Say the number {i}."}],
                "max_tokens": 6,
                "temperature": 0.0,
            },
        }
        for i in range(count)
    ]


def text_of(response):
    return response.json()["choices"][0]["message"]["content"]


def test_replicas_that_cannot_start_are_refused_at_once(app):
    """They would wait for ever for a GPU."""
    assert "GPU" in app.refused
    assert "no node" in app.refused


@pytest.mark.parametrize(
    ("body", "headers"), [(OFFLINE, {}), ({"priority": 1}, {}), ({}, {"x-vllm-priority": "1"})]
)
def test_both_classes_get_the_same_answer(app, body, headers):
    """An offline request goes through the pool, however it is labelled."""
    online = app.chat("What is the capital of France?")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    offline = app.post(
        "/v1/chat/completions", {"messages": messages, "max_tokens": 8, **body}, headers=headers
    )
    assert (200, 200) == (online.status_code, offline.status_code)
    assert text_of(online) == text_of(offline)


def test_completions_are_served_offline(app):
    """The other endpoint."""
    body = {"prompt": "One, two, three,", "max_tokens": 4}
    online, offline = (app.post("/v1/completions", {**body, **more}) for more in ({}, OFFLINE))
    assert online.json()["choices"][0]["text"] == offline.json()["choices"][0]["text"]


@pytest.mark.parametrize("more", [{}, OFFLINE], ids=["online", "offline"])
def test_request_that_is_too_long_is_a_bad_request(app, more):
    """The reason reaches the client from the engine, through the pool as well."""
    response = app.chat(TOO_LONG, **more)
    assert 400 == response.status_code
    assert "maximum context length" in response.json()["error"]["message"]


@pytest.mark.parametrize("more", [{}, OFFLINE], ids=["online", "offline"])
def test_stream_ends_as_it_should(app, more):
    """Both classes can stream."""
    body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    url = f"{app.url}/v1/chat/completions"
    with httpx.stream("POST", url, json={**body, "stream": True, **more}, timeout=60.0) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert "data: [DONE]" == lines[-1]


def test_batch_file_gets_one_result_a_row(app, tmp_path):
    """Bad rows get errors and stop nobody; a file that was cut off is gone on with."""
    rows, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = batch_lines(20)
    long = {**good[0], "custom_id": "long", "body": {**good[0]["body"]}}
    long["body"]["messages"] = [{"role": "user", "content": TOO_LONG}]
    no_url = {"custom_id": "no-url", "body": {}}
    texts = [json.dumps(row) for row in [*good, long, no_url]]
    rows.write_text("\n".join([*texts, "{"]) + "\n")
    done = app.batch(rows, "--out", out)
    assert 0 == done.returncode, done.err
    results = lines_of(out)
    expected = [*(row["custom_id"] for row in good), "long", "no-url", None]
    assert sorted(map(str, expected)) == sorted(str(row["custom_id"]) for row in results)
    errors = {row["custom_id"] for row in results if row["error"] is not None}
    assert {"long", "no-url", None} == errors
    assert "21 results" in done.out
    assert "meanwhile: " in done.out
    assert TARGET in done.out
    refused = app.batch(rows, "--out", out)
    assert (2, True) == (refused.returncode, "--resume" in refused.err)
    kept = out.read_text().splitlines(keepends=True)[:12]
    out.write_text("".join(kept) + '{"id": "batch_req_cut off')
    resumed = app.batch(rows, "--out", out, "--resume")
    assert 0 == resumed.returncode, resumed.err
    again = lines_of(out)
    assert sorted(map(str, expected)) == sorted(str(row["custom_id"]) for row in again)
    assert [json.loads(line) for line in kept] == again[:12]


@pytest.mark.long
def test_job_that_is_interrupted_leaves_no_work_and_few_processes(app, tmp_path):
    """However many rows it has: Ctrl-C, and what waited for it is dropped within some seconds."""
    rows, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in batch_lines(400)) + "\n")
    before = len(app.processes("ray::"))
    job = app.batch(rows, "--out", out, wait=False)
    deadline_s = time.monotonic() + 200.0
    while not (out.exists() and len(lines_of(out)) >= 8):
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    assert len(app.processes("ray::")) - before <= MOST_PROCESSES
    assert app.num_offline > 0
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=60.0)
    assert 130 == job.returncode
    assert f"results are in {out}; --resume goes on with it" in said
    deadline_s = time.monotonic() + 60.0
    while app.num_offline != 0:
        assert time.monotonic() < deadline_s, app.num_offline
        time.sleep(0.5)


@pytest.mark.long
def test_dataset_gets_a_result_a_row(app):
    """Rows of one table have each other's fields, empty."""
    command = [sys.executable, "-m", "tests.support.dataset_job", app.address]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **RAY_ENVIRONMENT}, check=False
    )
    assert 0 == done.returncode, done.stderr
    results = json.loads(done.stdout)
    assert (
        text_of(app.chat("What is the capital of France?"))
        == (results["chat"]["response"]["choices"][0]["message"]["content"])
    )
    assert 4 == results["text"]["response"]["usage"]["completion_tokens"]
    assert (400, True) == (results["bad"]["error"]["code"], "url" in str(results["bad"]))
