# SPDX-License-Identifier: Apache-2.0
"""Random traffic on schedulers with an offload tier: every token is right and nothing is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.classes import HYGEN
from tests.support.fake_engine import FakeEngine, expected_tokens
from tests.support.kv_transfer import offloading
from tests.support.scheduler_laws import check_blocks, check_empty, check_places

MODES = (
    {"mode": "off"},
    {"mode": "off", "offload_online": True, "offline_order": "fcfs"},
    {"min_chunk_tokens": 4},
    {"latency_budget_s": 1e-9},
)
SHARED_PREFIX = [(7 * i) % 997 for i in range(24)]
ADD, STEP, ABORT, RESET = "add", "step", "abort", "reset"
EVENTS = st.one_of(
    st.tuples(
        st.just(ADD),
        st.booleans(),
        st.sampled_from((0, 11, 24)),
        st.integers(1, 40),
        st.integers(1, 20),
    ),
    st.tuples(st.just(STEP), st.integers(1, 8)),
    st.tuples(st.just(ABORT), st.integers(0, 15)),
    st.tuples(st.just(RESET)),
)


def engine_of(is_async, mode, num_blocks, tier_blocks):
    limits = Limits(
        num_blocks=num_blocks,
        max_num_seqs=4,
        max_num_batched_tokens=48,
        kv_transfer=offloading(tier_blocks * 4096),
    )
    return FakeEngine(make_scheduler(HYGEN[is_async], limits, mode), depth=2 if is_async else 1)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    mode=st.sampled_from(MODES),
    num_blocks=st.sampled_from((24, 40)),
    tier_blocks=st.sampled_from((4, 200)),
    events=st.lists(EVENTS, min_size=8, max_size=30),
)
def test_every_request_gets_its_tokens(is_async, mode, num_blocks, tier_blocks, events):
    """Whatever is preempted, offloaded, loaded, aborted while it is loaded, or forgotten."""
    engine = engine_of(is_async, mode, num_blocks, tier_blocks)
    scheduler = engine.scheduler
    added = {}
    aborted = set()
    for kind, *values in events:
        if kind == ADD:
            is_offline, num_shared, num_own, max_tokens = values
            own = [(31 * len(added) + 7 * i) % 1000 for i in range(num_own)]
            prompt = SHARED_PREFIX[:num_shared] + own
            name = f"request-{len(added)}"
            added[name] = expected_tokens(prompt, max_tokens)
            slo_class = "offline" if is_offline else "online"
            engine.add(make_request(name, prompt, slo_class=slo_class, max_tokens=max_tokens))
        elif kind == STEP:
            for _ in range(values[0]):
                engine.step()
                check_places(scheduler)
                check_blocks(scheduler)
        elif kind == ABORT and scheduler.requests:
            name = list(scheduler.requests)[values[0] % len(scheduler.requests)]
            aborted.add(name)
            engine.abort(name)
        elif kind == RESET:
            scheduler.reset_prefix_cache()
    engine.run()
    check_empty(scheduler)
    for name, tokens in added.items():
        got = engine.outputs[name]
        assert tokens[: len(got)] == got
        assert len(tokens) == len(got) or name in aborted
