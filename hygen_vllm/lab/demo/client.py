# SPDX-License-Identifier: Apache-2.0
"""Sends one policy its requests and notes when each token reaches the client.

Knows the engine only as a function that streams token counts, so tests drive it with a fake one.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from hygen_vllm.lab.demo.workload import DemoRequest

OFFLINE_IN_ENGINE = 200
TICK_S = 0.5

Generate = Callable[[DemoRequest, str], AsyncIterator[int]]


@dataclass
class RequestLog:
    """When a request came and when its tokens reached the client, in seconds of the run."""

    slo_class: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    token_times_s: list[float] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """True once every output token has come."""
        return len(self.token_times_s) == self.output_tokens


class Client:
    """Serves one workload once; `logs` holds every request that was sent."""

    def __init__(self, generate: Generate) -> None:
        self.logs: list[RequestLog] = []
        self._generate = generate
        self._numbers = itertools.count()
        self._start_s = 0.0

    async def serve(
        self,
        online: list[DemoRequest],
        offline: Iterator[DemoRequest] | None,
        duration_s: float,
        on_tick: Callable[[float], None],
    ) -> None:
        """Send online requests at their arrivals and keep 200 offline ones in the engine.

        Ends after duration_s and aborts what is still running. Calls on_tick with the seconds that
        have passed about twice a second. Raises what the engine raised, if it did.
        """
        self._start_s = _now_s()
        tasks = [asyncio.create_task(self._send_at_arrival(request)) for request in online]
        if offline is not None:
            tasks += [
                asyncio.create_task(self._send_one_after_another(offline))
                for _ in range(OFFLINE_IN_ENGINE)
            ]
        try:
            await self._watch(tasks, duration_s, on_tick)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_one_after_another(self, offline: Iterator[DemoRequest]) -> None:
        for request in offline:
            await self._send(request, arrival_s=_now_s() - self._start_s)

    async def _send_at_arrival(self, request: DemoRequest) -> None:
        await asyncio.sleep(max(0.0, self._start_s + request.arrival_s - _now_s()))
        await self._send(request, request.arrival_s)

    async def _send(self, request: DemoRequest, arrival_s: float) -> None:
        log = RequestLog(
            request.slo_class, arrival_s, len(request.prompt_token_ids), request.output_tokens
        )
        self.logs.append(log)
        request_id = f"{request.slo_class}-{next(self._numbers)}"
        async for num_tokens in self._generate(request, request_id):
            log.token_times_s += [_now_s() - self._start_s] * num_tokens

    async def _watch(
        self,
        tasks: list[asyncio.Task[None]],
        duration_s: float,
        on_tick: Callable[[float], None],
    ) -> None:
        while (passed_s := _now_s() - self._start_s) < duration_s:
            on_tick(passed_s)
            await asyncio.sleep(min(TICK_S, duration_s - passed_s))
            for task in tasks:
                if task.done():
                    task.result()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
