# SPDX-License-Identifier: Apache-2.0
"""An engine around a real scheduler with a fake model that notices every mistake.

The fake worker keeps what a real one keeps: a KV cache (the token written to each slot of each
block) and the block table of each request, both only from what SchedulerOutput says. The next
token of a request is a hash of the tokens read back from the KV cache, so a wrong position, block
or prefix hit, or a lost or doubled token, changes every token after it. `expected_tokens` computes
the same without scheduler or cache.
"""

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from tests.support.clocks import STEP_S, SteppingClock
from tests.support.fake_offloading import FakeOffloading

VOCABULARY = 1000


def next_token(tokens: Sequence[int]) -> int:
    """Return the token the fake model samples after `tokens`."""
    return zlib.crc32(b"".join(token.to_bytes(2, "little") for token in tokens)) % VOCABULARY


def expected_tokens(prompt: Sequence[int], max_tokens: int) -> list[int]:
    """Return what the fake model generates for a prompt."""
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


@dataclass
class WorkerRequest:
    tokens: list[int]
    blocks: list[int]


class FakeWorker:
    """Executes SchedulerOutputs the way a model runner does."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.requests: dict[str, WorkerRequest] = {}
        self.kv_cache: dict[tuple[int, int], int] = {}
        self.offloading: FakeOffloading | None = None
        """Set at the first step of a scheduler with an OffloadingConnector."""

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        for request_id in output.finished_req_ids:
            self.requests.pop(request_id, None)
        if hasattr(output.kv_connector_metadata, "store_jobs"):
            self.offloading = self.offloading or FakeOffloading(self.kv_cache, self.block_size)
            self.offloading.begin(output)
        computed = self._update_requests(output)
        drafts = output.scheduled_spec_decode_tokens
        sampled = {
            request_id: self._run(
                request_id, computed[request_id], num_tokens, drafts.get(request_id, [])
            )
            for request_id, num_tokens in output.num_scheduled_tokens.items()
        }
        return ModelRunnerOutput(
            req_ids=list(sampled),
            req_id_to_index={request_id: i for i, request_id in enumerate(sampled)},
            sampled_token_ids=list(sampled.values()),
            kv_connector_output=self.offloading.end(output) if self.offloading else None,
        )

    def _update_requests(self, output: SchedulerOutput) -> dict[str, int]:
        computed = {}
        for new in output.scheduled_new_reqs:
            tokens = new.prefill_token_ids or new.prompt_token_ids
            self.requests[new.req_id] = WorkerRequest(list(tokens), list(new.block_ids[0]))
            computed[new.req_id] = new.num_computed_tokens
        cached = output.scheduled_cached_reqs
        for i, request_id in enumerate(cached.req_ids):
            request = self.requests[request_id]
            blocks = list(cached.new_block_ids[i][0]) if cached.new_block_ids[i] else []
            if request_id in cached.resumed_req_ids:
                request.tokens = list(cached.all_token_ids[request_id])
                request.blocks = blocks
            else:
                request.blocks += blocks
            computed[request_id] = cached.num_computed_tokens[i]
        return computed

    def propose(self, request_id: str, num_tokens: int) -> list[int]:
        """Return draft tokens, the first ones right, as many as the request's length says."""
        tokens = list(self.requests[request_id].tokens)
        num_right = len(tokens) % (num_tokens + 1)
        for i in range(num_tokens):
            tokens.append(next_token(tokens) if i < num_right else 1)
        return tokens[-num_tokens:]

    def _run(
        self, request_id: str, computed: int, num_tokens: int, drafts: Sequence[int]
    ) -> list[int]:
        request = self.requests[request_id]
        if drafts and drafts[0] < 0:  # asynchronous scheduling leaves drafting to the worker,
            drafts = self.propose(request_id, len(drafts))
        computed = min(computed, len(request.tokens) - 1)  # and hopes that all were right
        inputs = request.tokens[computed:] + list(drafts)
        assert num_tokens <= len(inputs), (request_id, computed, num_tokens, len(inputs))
        for position, token in enumerate(inputs[:num_tokens], start=computed):
            self.kv_cache[self._slot(request, position)] = token
        end = computed + num_tokens - len(drafts)
        if end < len(request.tokens):
            return []
        sampled: list[int] = []
        for draft in [*drafts, None]:
            token = next_token([self.kv_cache[self._slot(request, p)] for p in range(end)])
            sampled.append(token)
            if token != draft:
                break
            end += 1
        request.tokens += sampled
        return sampled

    def _slot(self, request: WorkerRequest, position: int) -> tuple[int, int]:
        return request.blocks[position // self.block_size], position % self.block_size


@dataclass
class FakeEngine:
    """EngineCore's two loops around a scheduler: one step at a time, or `depth` steps in flight."""

    scheduler: Scheduler
    depth: int = 1
    outputs: dict[str, list[int]] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    schedules: list[dict[str, int]] = field(default_factory=list)
    num_preempted: int = 0

    def __post_init__(self) -> None:
        self.worker = FakeWorker(self.scheduler.block_size)
        self._in_flight: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()

    def add(self, request: Request) -> None:
        self.outputs[request.request_id] = []
        self.scheduler.add_request(request)

    def abort(self, request_id: str) -> None:
        self.scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)

    def step(self, **schedule_options: Any) -> SchedulerOutput | None:
        """Schedule if anything wants to run, then complete steps beyond the pipeline depth."""
        output = None
        if self.scheduler.has_requests():
            output = self.scheduler.schedule(**schedule_options)
            self.schedules.append(dict(output.num_scheduled_tokens))
            self.num_preempted += len(output.preempted_req_ids or ())
            self._in_flight.append((output, self.worker.execute(output)))
        while len(self._in_flight) >= self.depth or (output is None and self._in_flight):
            self._complete()
        return output

    def drain(self) -> None:
        """Complete every step in flight."""
        while self._in_flight:
            self._complete()

    def run(self, max_steps: int = 10_000) -> None:
        """Step until nothing is left; AssertionError if that takes more than `max_steps`."""
        for _ in range(max_steps):
            if not self.scheduler.has_requests() and not self._in_flight:
                return
            self.step()
        raise AssertionError(f"not finished after {max_steps} steps: {self.scheduler.requests}")

    def _complete(self) -> None:
        scheduled, result = self._in_flight.popleft()
        hygen = getattr(self.scheduler, "hygen", None)
        clock = getattr(hygen, "clock", None)
        if isinstance(clock, SteppingClock):
            clock.now_s += STEP_S
        self._deliver(scheduled, result)
        if self.scheduler.num_spec_tokens and self.depth == 1:
            self._propose(scheduled)

    def _propose(self, scheduled: SchedulerOutput) -> None:
        ids = [
            request_id
            for request_id in scheduled.num_scheduled_tokens
            if request_id in self.scheduler.requests
        ]
        num_tokens = self.scheduler.num_spec_tokens
        drafts = [self.worker.propose(request_id, num_tokens) for request_id in ids]
        self.scheduler.update_draft_token_ids(DraftTokenIds(ids, drafts))

    def _deliver(self, scheduled: SchedulerOutput, result: ModelRunnerOutput) -> None:
        for outputs in self.scheduler.update_from_output(scheduled, result).values():
            for output in outputs.outputs:
                self.outputs[output.request_id] += output.new_token_ids
                if output.finish_reason is not None:
                    self.finished.add(output.request_id)
