# SPDX-License-Identifier: Apache-2.0
"""OfflinePool with replicas made of coroutines: each row gets its own answer, whatever happens."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hygen_vllm.lane.admission_order import OrderRules
from hygen_vllm.ray_serving import offline_pool
from hygen_vllm.ray_serving.offline_pool import OfflinePool

REPORT = {"load": {}, "interference": None, "targets": ""}


class Replica:
    """What HyGenServer does with a pool, without Ray and an engine."""

    def __init__(self, name: str, pool: OfflinePool) -> None:
        self.name, self.pool = name, pool
        self.doing: dict[str, asyncio.Task[None]] = {}
        self.num_done = 0

    async def pull(self, wanted: int) -> None:
        taken = await self.pool.take(self.name, list(self.doing), wanted, REPORT)
        for work_id, request in taken["work"]:
            self.doing[work_id] = asyncio.create_task(self._do(work_id, request))
        for work_id in taken["stop"]:
            self.doing.pop(work_id).cancel()

    async def _do(self, work_id: str, request: Any) -> None:
        await asyncio.sleep(request.body["max_tokens"] / 1000)
        self.num_done += 1
        result = {"response": {"text": f"answer to {request.body['prompt']}"}}
        await self.pool.finish(self.name, work_id, result, 1)
        self.doing.pop(work_id, None)


def new_pool(lease_s: float = 10.0, most_counted: int = 0) -> OfflinePool:
    return OfflinePool(lease_s, OrderRules(), {}, "HyGenServer:small", most_counted)


def call(row: int, **more: str) -> dict[str, str]:
    body = {"prompt": f"row-{row}", "max_tokens": 10 + 5 * (row % 7)}
    return {"url": "/v1/completions", "body": json.dumps(body), **more}


async def ask(pool: OfflinePool, row: int, results: dict[int, Any], **more: str) -> None:
    async for answer in pool.run(call(row, **more)):
        results[row] = json.loads(answer["result"])


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60.0))  # type: ignore[arg-type]


async def pull_until(replicas: list[Replica], is_done: Callable[[], bool]) -> None:
    while not is_done():
        for replica in replicas:
            await replica.pull(max(0, 8 - len(replica.doing)))
        await asyncio.sleep(0.005)


def texts(results: dict[int, Any]) -> dict[int, str]:
    return {row: result["response"]["text"] for row, result in results.items()}


def test_each_row_gets_its_own_answer_though_the_pool_begins_anew() -> None:
    """Replicas still work on what the pool lent that is gone; its names are not used again."""

    async def test() -> None:
        results: dict[int, Any] = {}
        pool = new_pool()
        replica = Replica("replica", pool)
        clients = [asyncio.create_task(ask(pool, row, results)) for row in range(40)]
        await asyncio.sleep(0)
        await replica.pull(32)
        await asyncio.sleep(0.02)
        for client in clients:
            client.cancel()
        await asyncio.sleep(0)
        pool = replica.pool = new_pool()
        left = [row for row in range(40) if row not in results]
        assert left
        clients = [asyncio.create_task(ask(pool, row, results)) for row in left]
        await pull_until([replica], lambda: len(results) == 40)
        assert {row: f"answer to row-{row}" for row in range(40)} == texts(results)

    run(test)


def test_result_of_a_replica_that_lost_its_work_counts_for_nothing() -> None:
    """Another has it by then, and what the first one says may be no answer at all."""

    async def test() -> None:
        results: dict[int, Any] = {}
        pool = new_pool()
        client = asyncio.create_task(ask(pool, 1, results))
        await asyncio.sleep(0)
        (work_id, _), *_ = (await pool.take("a", [], 1, REPORT))["work"]
        await pool.leave("a")
        assert work_id == (await pool.take("b", [], 1, REPORT))["work"][0][0]
        error = {"error": {"message": "Client disconnected", "code": 400}}
        await pool.finish("a", work_id, error, 0)
        assert [work_id] == (await pool.take("a", [work_id], 0, REPORT))["stop"]
        await pool.finish("b", work_id, {"response": {"text": "right"}}, 1)
        await client
        assert {1: "right"} == texts(results)

    run(test)


def test_leases_end_though_something_else_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Counting for autoscaling does, outside Serve. The log says so once."""
    monkeypatch.setattr(offline_pool, "EXPIRE_EVERY_S", 0.01)

    async def test() -> None:
        results: dict[int, Any] = {}
        pool = new_pool(lease_s=0.05, most_counted=1)
        client = asyncio.create_task(ask(pool, 1, results))
        await asyncio.sleep(0)
        assert (await pool.take("silent", [], 1, REPORT))["work"]
        await pull_until([Replica("other", pool)], lambda: len(results) == 1)
        await client

    run(test)
    assert 1 == caplog.text.count("the pool goes on after this error")


def test_work_of_a_client_that_is_gone_is_stopped() -> None:
    """At the next time that its replica asks."""

    async def test() -> None:
        pool = new_pool()
        client = asyncio.create_task(ask(pool, 1, {}))
        await asyncio.sleep(0)
        (work_id, _), *_ = (await pool.take("a", [], 1, REPORT))["work"]
        client.cancel()
        await asyncio.sleep(0)
        assert [work_id] == (await pool.take("a", [work_id], 0, REPORT))["stop"]

    run(test)


def test_work_of_a_job_that_is_not_heard_of_is_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting or lent; that of a job which says that it is there, or of no job, goes on."""
    monkeypatch.setattr(offline_pool, "JOB_SILENT_S", 0.2)
    monkeypatch.setattr(offline_pool, "JOB_GONE_S", 0.8)
    monkeypatch.setattr(offline_pool, "EXPIRE_EVERY_S", 0.02)

    async def test() -> None:
        pool, results = new_pool(), {}
        asked = [asyncio.create_task(ask(pool, row, results, job="gone")) for row in range(3)]
        asked += [asyncio.create_task(ask(pool, 3, results, job="here"))]
        asked += [asyncio.create_task(ask(pool, 4, results))]
        await asyncio.sleep(0)
        doing = [work_id for work_id, _ in (await pool.take("a", [], 1, REPORT))["work"]]
        stopped = []
        while not stopped:
            await pool.beat("here")
            stopped = (await pool.take("a", doing, 0, REPORT))["stop"]
            await asyncio.sleep(0.02)
        assert doing == stopped
        assert {} == results, "it may only have been silent"
        assert 2 == (await pool.status())["waiting"]
        while len(results) < 3:
            await pool.beat("here")
            await asyncio.sleep(0.02)
        assert {0, 1, 2} == results.keys()
        assert {499} == {result["error"]["code"] for result in results.values()}
        assert 2 == (await pool.status())["waiting"]
        for task in asked:
            task.cancel()

    run(test)


def test_job_that_is_heard_of_again_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine keeps jobs and replicas silent; a replica still does what was put aside."""
    monkeypatch.setattr(offline_pool, "JOB_SILENT_S", 0.1)
    monkeypatch.setattr(offline_pool, "EXPIRE_EVERY_S", 0.02)

    async def test() -> None:
        pool, results = new_pool(), {}
        replica = Replica("a", pool)
        asked = [asyncio.create_task(ask(pool, row, results, job="slow")) for row in range(40)]
        await asyncio.sleep(0)
        await replica.pull(8)
        while (await pool.status())["waiting"]:
            await asyncio.sleep(0.02)
        await pool.beat("slow")
        assert 40 - len(results) == (await pool.status())["waiting"]
        while len(results) < 40:
            await pool.beat("slow")
            await pull_until([replica], lambda: True)
            await replica.pull(8)
            await asyncio.sleep(0.01)
        await asyncio.gather(*asked)
        assert {row: f"answer to row-{row}" for row in range(40)} == texts(results)

    run(test)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"url": "/v1/nothing", "body": "{}"}, "url must be one of"),
        ({"url": "/v1/completions", "body": "[]"}, "body must be an object"),
    ],
)
def test_request_that_is_none_is_refused_at_once(request_: dict[str, str], reason: str) -> None:
    """With an error of the client's."""

    async def test() -> None:
        async for answer in new_pool().run(request_):
            error = json.loads(answer["result"])["error"]
        assert 400 == error["code"]
        assert reason in error["message"]

    run(test)
