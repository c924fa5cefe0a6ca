# SPDX-License-Identifier: Apache-2.0
"""Pipeline parallelism: layers in stages, steps of different requests in them at the same time."""

from dataclasses import replace

import pytest

from hygen_vllm.lab.policies import find_policy
from hygen_vllm.lab.simulator import simulation
from hygen_vllm.lab.simulator.figures import Latencies, tokens_per_s
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.simulator.simulation import Requests, scheduler_of, simulate
from hygen_vllm.lab.workloads.arrival_processes import (
    ARXIV_LENGTHS,
    generate_azure_like,
    generate_backlog,
)
from hygen_vllm.lab.workloads.arrivals import Arrival

PROFILE = "a100x4-yi-34b"
SECONDS, LONG_S = 60.0, 120.0


def _run(policy, requests, settings=None, seconds=SECONDS, **info):
    engine = SimulatedEngine.load(PROFILE)
    engine = replace(engine, info=replace(engine.info, **info))
    requests, _ = requests.fitted(engine.info.max_model_len)
    return simulate(engine, find_policy(policy), settings or {}, requests, seed=0, until_s=seconds)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request):
    return request.param


def test_two_requests_share_a_pipeline_without_slowing_each_other(is_async):
    """Each has a stage of its own at any time; in one step they would wait for each other."""
    one = Requests([Arrival(0.0, 400, 20)], [])
    two = Requests([Arrival(0.0, 400, 20), Arrival(0.0, 400, 20)], [])
    alone, both = (
        Latencies.of(_run("online-only", some, is_async=is_async)) for some in (one, two)
    )
    assert pytest.approx(alone.tbt_s.max(), rel=0.02) == both.tbt_s[2:-2].max()
    assert both.ttft_s.max() < 1.6 * alone.ttft_s.max()


def test_pipeline_without_offline_requests_is_stock_vllm_step_by_step(is_async):
    requests = Requests(generate_azure_like(1.5, SECONDS, 1), [])
    stock, ours = (_run(policy, requests, is_async=is_async) for policy in ("online-only", "slo"))
    assert (Latencies.of(stock).tbt_s == Latencies.of(ours).tbt_s).all()
    assert stock.log.num_steps == ours.log.num_steps


def test_online_alone_in_a_pipeline_is_what_stock_vllm_would_have_done(is_async, monkeypatch):
    """Worked out while offline requests fill the stages."""
    online = generate_azure_like(1.0, SECONDS, 1)
    stock = Latencies.of(_run("online-only", Requests(online, []), is_async=is_async))
    made = []

    def kept(*arguments):
        made.append(scheduler_of(*arguments))
        return made[-1]

    monkeypatch.setattr(simulation, "scheduler_of", kept)
    requests = Requests(online, generate_backlog(ARXIV_LENGTHS, 150, 1))
    served = Latencies.of(_run("slo", requests, {"slos": ["tbt_mean=+100%"]}, is_async=is_async))
    alone = made[0].hygen.slo_control.controller.measures.alone
    assert served.tbt_s.mean() > 1.4 * stock.tbt_s.mean(), "offline requests did run"
    assert pytest.approx(stock.tbt_s.mean(), rel=0.05) == alone["tbt"].mean_s
    assert pytest.approx(stock.ttft_s.mean(), rel=0.1) == alone["ttft"].mean_s


def test_steps_in_a_pipeline_are_even_where_that_does_more(is_async):
    """For the mean TBT of a fixed budget, which makes them even, at least about as much work.

    A step much longer than the other one at work delays the requests of both: where each step was
    priced by its own decodes, 0.6 times as much was done.
    """
    requests = Requests(
        generate_azure_like(1.0, LONG_S, 1), generate_backlog(ARXIV_LENGTHS, 300, 1)
    )
    how = {"seconds": LONG_S, "is_async": is_async}
    fixed = _run("fixed-budget", requests, {"latency_budget_s": 0.033}, **how)
    limit_s = Latencies.of(fixed).tbt_s.mean()
    slos = [f"tbt_mean={1e3 * limit_s:.3f}ms"]
    ours = _run("slo", requests, {"slos": slos}, **how)
    assert Latencies.of(ours).tbt_s.mean() < 1.02 * limit_s
    assert tokens_per_s(ours)[1] > 0.9 * tokens_per_s(fixed)[1]
