# SPDX-License-Identifier: Apache-2.0
"""Serve scales the replicas by offline work, too: up from none, and not down before it is done."""

import time

import pytest

from tests.ray_serving.conftest import serving

pytestmark = [pytest.mark.engine, pytest.mark.two_replicas, pytest.mark.timeout(1500)]
OFFLINE = {"vllm_xargs": {"slo_class": "offline"}}
DOWN_AFTER_S = 3.0
SCALING = {
    "min_replicas": 0,
    "max_replicas": 1,
    "metrics_interval_s": 0.5,
    "look_back_period_s": 1.0,
    "upscale_delay_s": 0.5,
    "downscale_delay_s": DOWN_AFTER_S,
}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    deployment = {"autoscaling_config": SCALING}
    folder = tmp_path_factory.mktemp("app")
    with serving(folder, None, hygen={"mode": "off"}, deployment=deployment) as app:
        yield app


def test_offline_request_wakes_a_replica_and_keeps_it_until_it_is_done(app):
    """None runs at first, and none some time after the answer."""
    app.wait_for(0)
    asked_s = time.monotonic()
    response = app.chat("Tell me a long story.", max_tokens=400, ignore_eos=True, **OFFLINE)
    assert 200 == response.status_code, response.text
    assert 400 == response.json()["usage"]["completion_tokens"]
    assert time.monotonic() - asked_s > 2 * DOWN_AFTER_S
    app.wait_for(0)
