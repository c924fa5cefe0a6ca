# SPDX-License-Identifier: Apache-2.0
"""Random traffic and control on real scheduler objects: what holds whatever happens."""

import copy
import json
import tempfile
import zlib
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output.request import StructuredOutputRequest

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.curve import TokenCurve
from hygen_vllm.cost.profile import Profile, save_profile
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.engine.identity import engine_info
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.classes import HYGEN, STOCK
from tests.support.fake_engine import FakeEngine, expected_tokens
from tests.support.kv_transfer import storing, write_loaded
from tests.support.scheduler_laws import (
    check_blocks,
    check_empty,
    check_nobody_is_charged,
    check_places,
    online_schedule_without_offline,
)

STAIRS = TokenCurve((0, 8, 10, 16, 18), (0.0, 2e-5, 0.0, 2e-5, 1e-6))
COST = StepCost(0.001, 1e-5, 1e-7, 1e-5, 5e-5, 1e-8, 1e-7, STAIRS)
GATES = {
    "off": {"mode": "off"},
    "learning": {"min_chunk_tokens": 4},
    "short idle steps": {"profile": True, "idle_step_s": 0.0015},
    "hardly a target": {"profile": True, "slos": ["tbt_mean=+0.1%"], "min_chunk_tokens": 1},
    "fixed": {"profile": True, "latency_budget_s": 0.0016, "min_chunk_tokens": 4},
    "hopeless": {"profile": True, "latency_budget_s": 1e-9},
    "slos": {"profile": True, "slos": ["tbt_mean=+20%", "ttft_mean=+20%", "ttft_p99=50ms"]},
    "learning slos": {"slos": ["tbt_mean=+5%"], "min_chunk_tokens": 4},
    "tails": {"profile": True, "slos": ["tbt_p99=1.6ms", "tbt_p50=+10%"], "min_chunk_tokens": 4},
}
SHORTENS_ONLINE = ("tails",)
"""Gates that shorten online prefills for the sake of other online requests' tokens."""
SIZES = (
    {},
    {"max_num_batched_tokens": 16},
    {"max_num_seqs": 2},
    {"max_num_seqs": 3, "max_num_batched_tokens": 24},
)
OPTIONS = (
    {},
    {"max_loras": 1},
    {"max_loras": 2},
    {"scheduler_options": {"long_prefill_token_threshold": 8}},
    {
        "scheduler_options": {
            "long_prefill_token_threshold": 8,
            "long_prefill_token_threshold_adaptive": True,
        }
    },
    {"scheduler_options": {"watermark": 0.15}},
    {"scheduler_options": {"max_num_active_seqs": 2}},
    {
        "max_num_batched_tokens": 512,
        "scheduler_options": {"enable_chunked_prefill": False},
    },
)
POLICIES = ("fcfs", "priority")
LANES = (
    {},
    {"offline_order": "fcfs"},
    {"offline_max_wait_s": 0.02},
    {"tenant_weights": {"a": 3.0}},
)
TENANTS = (None, "a", "b")
LABELS = ("online", "offline", " Offline", None, "bulk")
SHARED_PREFIX = [(7 * i) % 997 for i in range(24)]
NUM_BLOCKS = (100, 40, 18)
"""18 blocks of 4 tokens just hold the longest request."""


BLOCKED = (
    RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR,
    RequestStatus.WAITING_FOR_REMOTE_KVS,
)
"""Statuses of requests that wait for something outside of the scheduler."""


class Grammar:
    """A compiled grammar that allows everything."""

    def accept_tokens(self, request_id, tokens):
        return True

    def validate_tokens(self, tokens):
        return tokens

    def is_terminated(self):
        return False


@cache
def template(key: str):
    """Return a scheduler of vLLM whose configuration others share: that takes 40 ms to build."""
    return make_scheduler(STOCK[False], Limits(**json.loads(key)))


@cache
def profile() -> str:
    folder = Path(tempfile.mkdtemp())
    engine = engine_info(template("{}").vllm_config)
    save_profile(Profile(engine, "measured", COST), folder)
    return str(folder)


def build(cls, limits: dict, num_blocks: int, v2_runner: bool, hygen=None, **clocks):
    base = template(json.dumps(limits, sort_keys=True))
    vllm_config = copy.copy(base.vllm_config)
    if hygen is not None:
        vllm_config.additional_config = {"hygen": hygen}
    scheduler = cls(
        vllm_config=vllm_config,
        kv_cache_config=KVCacheConfig(
            num_blocks=num_blocks,
            kv_cache_tensors=[],
            kv_cache_groups=base.kv_cache_config.kv_cache_groups,
        ),
        structured_output_manager=base.structured_output_manager,
        block_size=base.block_size,
        log_stats=True,
        **clocks,
    )
    scheduler.use_v2_model_runner = v2_runner
    return scheduler


@dataclass
class Added:
    """What is known of a request apart from the scheduler."""

    prompt: list[int]
    max_tokens: int
    is_offline: bool
    copies: list[Request]


class TimedEngine(FakeEngine):
    """Shows each step to the machine; a step takes virtual seconds, by COST."""

    def __init__(self, scheduler, depth, machine) -> None:
        super().__init__(scheduler, depth)
        self.machine = machine
        self.seconds = deque()
        execute = self.worker.execute

        def execute_and_show(output):
            machine.see_step(output)
            self.seconds.append(COST.seconds(machine.composition(output.num_scheduled_tokens)))
            return execute(output)

        self.worker.execute = execute_and_show

    def _complete(self):
        self.machine.now_s += self.seconds.popleft()
        super()._complete()


class SchedulerMachine(RuleBasedStateMachine):
    """Traffic, aborts, preemptions, pauses and cache resets in any order.

    Beside the engine under test runs a stock one that never sees an offline request: without
    prefix caching online requests must get the same tokens in the same steps. With prefix caching
    what is cached differs, so there a step is compared with one from the same state in which all
    offline requests have just been aborted.
    """

    is_async = False
    most_empty_steps = 3
    """Steps without a token in a row while requests are ready, before it counts as a stall."""

    @initialize(
        policy=st.sampled_from(POLICIES),
        prefix_caching=st.booleans(),
        size=st.sampled_from(SIZES),
        options=st.sampled_from(OPTIONS),
        gate=st.sampled_from(sorted(GATES)),
        lane=st.sampled_from(LANES),
        num_blocks=st.sampled_from(NUM_BLOCKS),
        v2_runner=st.booleans(),
    )
    def start(self, policy, prefix_caching, size, options, gate, lane, num_blocks, v2_runner):
        limits = {"policy": policy, "prefix_caching": prefix_caching, **size, **options}
        if "max_loras" in options:
            limits["max_num_seqs"] = 4
        hygen = {**GATES[gate], **lane}
        if "profile" in hygen:
            hygen["profile"] = profile()
        self.shortens_online = gate in SHORTENS_ONLINE
        self.budget_s = hygen.get("latency_budget_s") if "profile" in hygen else None
        self.now_s = 100.0
        depth = 2 if self.is_async else 1
        scheduler = build(
            HYGEN[self.is_async], limits, num_blocks, v2_runner, hygen, clock=lambda: self.now_s
        )
        self.engine = TimedEngine(scheduler, depth, self)
        self.shadow = None
        if not prefix_caching:
            stock = build(STOCK[self.is_async], limits, num_blocks, v2_runner)
            self.shadow = FakeEngine(stock, depth)
        self.added: dict[str, Added] = {}
        self.num_empty_steps = 0
        self.policy = policy
        self.has_loras = "max_loras" in options

    @property
    def scheduler(self):
        return self.engine.scheduler

    @property
    def engines(self):
        return [self.engine] if self.shadow is None else [self.engine, self.shadow]

    def unfinished(self, *statuses):
        """Return the names of requests in a status, of all that have not ended without one."""
        return [
            request.request_id
            for request in self.scheduler.requests.values()
            if not request.is_finished() and (not statuses or request.status in statuses)
        ]

    def engines_of(self, request_id):
        return self.engines[: 1 if self.added[request_id].is_offline else 2]

    # --- traffic -------------------------------------------------------------------------------

    @rule(
        label=st.sampled_from(LABELS),
        priority=st.integers(0, 2),
        num_shared=st.sampled_from((0, 4, 11, 24)),
        num_own=st.integers(1, 24),
        max_tokens=st.integers(1, 9),
        lora=st.integers(0, 3),
        waits_for_grammar=st.integers(0, 9).map(lambda n: n == 9),
        tenant=st.sampled_from(TENANTS),
    )
    def add(self, **request):
        self.add_one(**request)

    def add_one(
        self, label, priority, num_shared, num_own, max_tokens, lora, waits_for_grammar, tenant
    ):
        is_offline = str(label).strip().lower() == "offline"
        if label is None and self.policy == "fcfs":
            is_offline = priority > 0
        number = len(self.added)
        prompt = SHARED_PREFIX[:num_shared]
        prompt = prompt + [(31 * number + 7 * i) % 1000 for i in range(num_own)]
        request_id = f"{'offline' if is_offline else 'online'}-{number}"
        self.added[request_id] = Added(prompt, max_tokens, is_offline, [])
        for engine in self.engines_of(request_id):
            request = make_request(
                request_id,
                prompt,
                slo_class=label,
                max_tokens=max_tokens,
                priority=priority,
                lora=lora if self.has_loras else 0,
                extra_args=tenant and {"tenant": tenant},
                arrival_time=float(number // 2),
            )
            if waits_for_grammar:
                params = StructuredOutputsParams(regex=".*")
                request.structured_output_request = StructuredOutputRequest(params=params)
                request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
            self.added[request_id].copies.append(request)
            engine.add(request)

    @rule(pick=st.integers(0, 15))
    def compile_grammar(self, pick):
        blocked = self.unfinished(RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR)
        if blocked:
            self.set_grammar(blocked[pick % len(blocked)])

    def set_grammar(self, request_id):
        for request in self.added[request_id].copies:
            request.structured_output_request.grammar = Grammar()

    @rule(pick=st.integers(0, 15))
    def abort(self, pick):
        request_ids = self.unfinished()
        if request_ids:
            request_id = request_ids[pick % len(request_ids)]
            for engine in self.engines_of(request_id):
                engine.abort(request_id)

    @rule()
    def abort_all_offline(self):
        """As where a batch job is cancelled."""
        for request_id in self.unfinished():
            if self.added[request_id].is_offline:
                self.engine.abort(request_id)

    # --- control -------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((0.1, 3.0, 40.0)))
    def time_passes(self, seconds):
        """The device is slow: requests find no room for long, and wait beyond their bound."""
        self.now_s += seconds

    @rule(pick=st.integers(0, 15))
    def preempt(self, pick):
        """As reset_prefix_cache(reset_running_requests=True) does, but one request."""
        request_ids = self.unfinished(RequestStatus.RUNNING)
        if request_ids:
            request_id = request_ids[pick % len(request_ids)]
            for engine in self.engines_of(request_id):
                scheduler = engine.scheduler
                request = scheduler.requests[request_id]
                scheduler.running.remove(request)
                scheduler._preempt_request(request, self.now_s, drop_stale_output=True)
                scheduler.prev_step_scheduled_req_ids.discard(request_id)

    @rule(state=st.sampled_from((PauseState.PAUSED_NEW, PauseState.PAUSED_ALL)))
    def pause(self, state):
        for engine in self.engines:
            engine.scheduler.set_pause_state(state)

    @precondition(lambda self: self.scheduler.pause_state != PauseState.UNPAUSED)
    @rule()
    def resume(self):
        for engine in self.engines:
            engine.scheduler.set_pause_state(PauseState.UNPAUSED)

    @rule(reset_running=st.booleans())
    def reset_prefix_cache(self, reset_running):
        for engine in self.engines:
            done = engine.scheduler.reset_prefix_cache(reset_running_requests=reset_running)
            assert done or not reset_running

    # --- steps ---------------------------------------------------------------------------------

    @rule(throttle=st.booleans(), what_if=st.booleans())
    def step(self, throttle, what_if):
        self.one_step(throttle, what_if)

    @rule(count=st.integers(2, 6))
    def several_steps(self, count):
        for _ in range(count):
            self.one_step()

    def one_step(self, throttle=False, what_if=False):
        alone = None
        if self.shadow is not None:
            output = self.shadow.step(throttle_prefills=throttle)
            alone = dict(output.num_scheduled_tokens) if output else {}
        elif what_if and self.scheduler.has_requests():
            alone = online_schedule_without_offline(self.scheduler, throttle)
        output = self.engine.step(throttle_prefills=throttle)
        tokens = dict(output.num_scheduled_tokens) if output else {}
        if alone is not None and not self.shortens_online:
            online = {i: n for i, n in tokens.items() if not self.added[i].is_offline}
            assert alone == online, (alone, online)
        self.check_progress(tokens, throttle)

    def check_progress(self, tokens, throttle):
        """Something runs while anything is ready, but for a step or two after preemptions."""
        blocked = self.unfinished(*BLOCKED)
        is_idle = len(blocked) == len(self.unfinished()) or throttle
        if tokens or is_idle or self.scheduler.pause_state != PauseState.UNPAUSED:
            self.num_empty_steps = 0
            return
        self.num_empty_steps += 1
        assert self.num_empty_steps <= self.most_empty_steps, [
            (name, request.status.name, request.num_computed_tokens, request.num_tokens)
            for name, request in self.scheduler.requests.items()
        ]

    def see_step(self, output):
        """Check the limits of a step that was just scheduled; let its time pass."""
        tokens = output.num_scheduled_tokens
        assert sum(tokens.values()) <= self.scheduler.max_num_scheduled_tokens
        assert len(tokens) <= self.scheduler.max_num_active_reqs
        adapters = {self.scheduler.requests[i].lora_request for i in tokens} - {None}
        assert not adapters or len(adapters) <= self.scheduler.lora_config.max_loras
        online = {i: n for i, n in tokens.items() if not self.added[i].is_offline}
        if self.budget_s is not None and online and len(online) < len(tokens):
            predicted_s = self.scheduler.hygen.learner.cost.seconds(self.composition(tokens))
            assert predicted_s <= self.budget_s + 1e-9, (predicted_s, tokens)

    def composition(self, tokens):
        step = StepComposition()
        for request_id, num_tokens in tokens.items():
            request = self.scheduler.requests[request_id]
            computed = request.num_computed_tokens - num_tokens
            is_prefill = computed < request.num_tokens - 1
            (step.add_prefill if is_prefill else step.add_decode)(num_tokens, computed)
        return step

    # --- laws ----------------------------------------------------------------------------------

    @invariant()
    def everything_is_in_its_place(self):
        check_places(self.scheduler)
        check_blocks(self.scheduler)
        for request_id in self.unfinished():
            is_offline = self.added[request_id].is_offline
            assert is_offline == self.scheduler.is_offline(self.scheduler.requests[request_id])

    def teardown(self):
        if not hasattr(self, "added"):
            return
        for request_id in self.unfinished(RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR):
            self.set_grammar(request_id)
        for engine in self.engines:
            engine.scheduler.set_pause_state(PauseState.UNPAUSED)
        expected = self.engine.finished | set(self.unfinished())
        for _ in range(3000):
            if not self.scheduler.has_requests():
                break
            self.one_step()
        self.engine.drain()
        assert expected == self.engine.finished
        check_places(self.scheduler)
        check_blocks(self.scheduler)
        check_empty(self.scheduler)
        check_nobody_is_charged(self.scheduler)
        for request_id, added in self.added.items():
            tokens = expected_tokens(added.prompt, added.max_tokens)
            got = self.engine.outputs[request_id]
            assert tokens[: len(got)] == got, request_id
            assert tokens == got or request_id not in expected, request_id


class AsyncSchedulerMachine(SchedulerMachine):
    """The same with two steps in flight."""

    is_async = True


class LoadingEngine(TimedEngine):
    """A TimedEngine whose worker loads KV in some steps' time, or in vain."""

    def __init__(self, scheduler, depth, machine) -> None:
        super().__init__(scheduler, depth, machine)
        self.num_steps = 0
        self.due: dict[str, int] = {}
        """By request that is loading: the step that reports it."""
        execute = self.worker.execute

        def execute_and_load(output):
            self.num_steps += 1
            result = execute(output)
            result.kv_connector_output = self._loaded()
            return result

        self.worker.execute = execute_and_load

    def _loaded(self):
        store = self.scheduler.connector
        if store is None:
            return None
        for name in store.loads:
            self.due.setdefault(name, self.num_steps + zlib.crc32(name.encode()) % 7)
        ended = [name for name, due in self.due.items() if due <= self.num_steps]
        if not ended:
            return None
        failed = {name for name in ended if zlib.crc32(f"{name}.".encode()) % 3 == 0}
        for name in ended:
            del self.due[name]
            load = store.loads[name]
            num_blocks = len(load.block_ids) // (2 if name in failed else 1)
            write_loaded(self.worker, load, num_blocks)
        return store.finished(ended, failed)


STORES = (None, 20, 60)
"""Per cent of the requests whose KV a connector has, None without one."""


class EverythingMachine(SchedulerMachine):
    """What an engine can be given, all at once: loads that fail, drafts, adapters, grammars,
    priorities and tenants without number.

    No stock engine runs beside: what a connector loads, and what is accepted of drafts, changes
    with the steps.
    """

    most_empty_steps = 40
    """Requests that load hold blocks, and vLLM starts nobody behind one; some load in turn."""

    @initialize(
        policy=st.sampled_from(POLICIES),
        prefix_caching=st.booleans(),
        size=st.sampled_from(SIZES),
        gate=st.sampled_from(sorted(GATES)),
        lane=st.sampled_from(LANES),
        num_blocks=st.sampled_from(NUM_BLOCKS),
        max_loras=st.sampled_from((0, 1, 2)),
        num_drafts=st.sampled_from((0, 0, 3, 8)),
        store=st.sampled_from(STORES),
    )
    def start(
        self, policy, prefix_caching, size, gate, lane, num_blocks, max_loras, num_drafts, store
    ):
        limits = {"policy": policy, "prefix_caching": prefix_caching, **size}
        if max_loras:
            limits |= {"max_loras": max_loras, "max_num_seqs": 4}
        if num_drafts:
            limits["num_speculative_tokens"] = num_drafts
        if store is not None:
            limits["kv_transfer"] = storing(store)
        hygen = {**GATES[gate], **lane}
        if "profile" in hygen:
            hygen["profile"] = profile()
        self.shortens_online = True
        self.budget_s = None
        self.now_s = 100.0
        num_blocks += 1 + num_drafts // 2  # an asynchronous engine drafts for two steps at once
        scheduler = build(
            HYGEN[self.is_async], limits, num_blocks, False, hygen, clock=lambda: self.now_s
        )
        self.engine = LoadingEngine(scheduler, 2 if self.is_async else 1, self)
        self.shadow = None
        self.added = {}
        self.num_empty_steps = 0
        self.policy = policy
        self.has_loras = bool(max_loras)

    @rule(
        label=st.sampled_from(LABELS),
        priority=st.integers(-3, 60),
        num_shared=st.sampled_from((0, 4, 11, 24)),
        num_own=st.integers(1, 24),
        max_tokens=st.integers(1, 9),
        lora=st.integers(0, 3),
        waits_for_grammar=st.integers(0, 4).map(lambda n: n == 0),
        tenant=st.one_of(st.none(), st.integers(0, 200).map(str)),
    )
    def add(self, **request):
        self.add_one(**request)

    @rule(reset_running=st.booleans())
    def reset_prefix_cache(self, reset_running):
        """vLLM refuses to preempt all while KV is loading."""
        requests = self.scheduler.requests.values()
        is_loading = self.scheduler.connector is not None and (
            self.scheduler.connector.loads
            or len(self.scheduler.kv_holding_waiting)
            or any(request.is_finished() for request in requests)  # aborted while it loads
        )
        done = self.scheduler.reset_prefix_cache(
            reset_running_requests=reset_running and not is_loading
        )
        assert done or is_loading or not reset_running


class AsyncEverythingMachine(EverythingMachine):
    """The same with two steps in flight."""

    is_async = True
