# SPDX-License-Identifier: Apache-2.0
"""HyGenServer without Ray and an engine: what the pool is told of work that failed."""

import asyncio
from types import SimpleNamespace

import pytest

from hygen_vllm.openai_request import OpenAiRequest
from hygen_vllm.ray_serving import server
from hygen_vllm.ray_serving.server import HyGenServer


class Calls:
    """A deployment's handle; keeps the names of the methods that were called."""

    def __init__(self):
        self.names = []

    def __getattr__(self, name):
        async def remote(*_):
            self.names.append(name)

        return SimpleNamespace(remote=remote)


@pytest.mark.parametrize(("is_dead", "told"), [(False, ["give_back"]), (True, [])])
def test_work_that_failed_is_given_back_unless_the_engine_is_dead(monkeypatch, is_dead, told):
    """Then each of its requests may have ended it: they stay lent, and are suspected."""
    monkeypatch.setattr(server, "RETRY_AFTER_S", 0.0)
    pool = Calls()

    async def fails(_):
        raise RuntimeError("the engine is dead")

    replica = SimpleNamespace(
        engine=SimpleNamespace(_engine_client=SimpleNamespace(errored=is_dead)),
        _worker="a",
        _pool=pool,
        _doing={},
        _stopped=set(),
        _answer=fails,
    )
    request = OpenAiRequest("/v1/completions", {"prompt": "x"})
    asyncio.run(HyGenServer._do(replica, "1", request))
    assert told == pool.names
