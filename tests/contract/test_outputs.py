# SPDX-License-Identifier: Apache-2.0
"""Every request gets the tokens of the model, whatever was skipped, chunked or preempted."""

import random

import pytest

from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.classes import HYGEN, STOCK
from tests.support.fake_engine import FakeEngine, expected_tokens

SLOS = {
    "slo": {"slos": ["tbt_mean=+20%", "ttft_p99=+20%"]},
    "tails": {"slos": ["tbt_p99=0.5ms", "ttft_mean=1ms"]},
}
"""Settings of HyGen where they are not the default."""


def mixed_requests(seed: int, num_requests: int) -> list:
    rng = random.Random(seed)
    shared = [rng.randrange(1000) for _ in range(40)]
    requests = []
    for i in range(num_requests):
        prompt = shared[: rng.randrange(40)] + [
            rng.randrange(1000) for _ in range(rng.randrange(1, 60))
        ]
        slo_class = rng.choice(["online", "offline"])
        requests.append(
            make_request(
                f"{slo_class}-{i}", prompt, slo_class=slo_class, max_tokens=rng.randrange(1, 30)
            )
        )
    return requests


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["stock", "hygen", "slo", "tails"])
@pytest.mark.parametrize("num_blocks", [200, 40])
@pytest.mark.parametrize("seed", range(5))
def test_outputs_of_mixed_load_are_those_of_the_model(is_async, kind, num_blocks, seed):
    """Tokens equal the reference for every request, also when KV blocks are short."""
    cls = (STOCK if kind == "stock" else HYGEN)[is_async]
    scheduler = make_scheduler(cls, Limits(num_blocks=num_blocks), SLOS.get(kind))
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    requests = mixed_requests(seed, 30)
    rng = random.Random(seed)
    for request in requests:
        engine.add(request)
        for _ in range(rng.randrange(3)):
            engine.step()
    engine.run()
    for request in requests:
        expected = expected_tokens(request.prompt_token_ids, request.max_tokens)
        assert expected == engine.outputs[request.request_id]
    assert engine.finished == {request.request_id for request in requests}
