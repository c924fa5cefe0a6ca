# SPDX-License-Identifier: Apache-2.0
"""A pytest plug-in for vllm_own_tests.py: the scheduler to test, and the outcome of every test."""

import gc
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scheduler", choices=("stock", "hygen"), required=True)
    parser.addoption("--outcomes", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    replace_llava()
    if config.getoption("scheduler") == "hygen":
        replace_schedulers()
    config.pluginmanager.register(OutcomeWriter(config.getoption("outcomes")))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking over all of vLLM and torch again and again."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def replace_schedulers() -> None:
    """Put our classes in the place of vLLM's, before a test module imports those."""
    from vllm.v1.core.sched import async_scheduler, scheduler

    from hygen_vllm import HyGenAsyncScheduler, HyGenScheduler

    async_scheduler.Scheduler = scheduler.Scheduler = HyGenScheduler
    async_scheduler.AsyncScheduler = HyGenAsyncScheduler


def replace_llava() -> None:
    """Put a model that takes images in the place of Llava, whose import needs torchvision."""
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.interfaces import SupportsMultiModal
    from vllm.model_executor.models.opt import OPTForCausalLM
    from vllm.multimodal import MULTIMODAL_REGISTRY

    def image_info(context: Any) -> SimpleNamespace:
        return SimpleNamespace(
            ctx=context,
            supported_mm_limits={"image": None},
            allowed_mm_limits={"image": 999},
            skip_prompt_length_check=False,
            get_mm_max_tokens_per_item=lambda *_, **__: {"image": 576},
        )

    # The tests ask what the model supports and never build it.
    image_model = type("ImageModel", (OPTForCausalLM, SupportsMultiModal), {})
    MULTIMODAL_REGISTRY.register_processor(
        lambda info, *_, **__: SimpleNamespace(info=info),
        info=image_info,
        dummy_inputs=lambda _: None,
    )(image_model)
    ModelRegistry.register_model("LlavaForConditionalGeneration", image_model)


class OutcomeWriter:
    """Writes {test: "passed", "failed" or "skipped"}; a file that does not import has failed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[str, str] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.outcomes[report.nodeid] = report.outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.outcomes), encoding="utf-8")


@pytest.fixture
def caplog_vllm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[pytest.LogCaptureFixture]:
    """Stand for the fixture of vLLM's tests/conftest.py, which needs more than these tests do."""
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.INFO):
        yield caplog
