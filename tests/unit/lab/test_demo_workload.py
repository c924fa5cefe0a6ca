# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest

from hygen_vllm.lab.demo.policies import ENGINE_SETTINGS
from hygen_vllm.lab.demo.workload import OFFLINE_OUTPUT_TOKENS, make_workload
from hygen_vllm.lab.workloads.prompts import GSM8K
from hygen_vllm.lab.workloads.sources import AZURE
from hygen_vllm.lab.workloads.trace_files import AZURE_COLUMNS


class WordTokenizer:
    """A token for each word."""

    def encode(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]


def workload(seed=0, folder=None, rate_per_s=1.0):
    return make_workload(folder, WordTokenizer(), rate_per_s, duration_s=40.0, seed=seed)


def test_same_seed_gives_every_policy_the_same_requests():
    one, two = workload(), workload()
    assert one.online == two.online
    backlog = list(itertools.islice(one.offline, 100))
    assert backlog == list(itertools.islice(one.offline, 100))
    assert backlog == list(itertools.islice(two.offline, 100))
    assert workload(seed=1).online != one.online


def test_offline_outputs_are_of_full_length_once_the_engine_has_been_filled():
    num_first = ENGINE_SETTINGS["max_num_seqs"]
    lengths = [request.output_tokens for request in itertools.islice(workload().offline, 300)]
    shortest, longest = OFFLINE_OUTPUT_TOKENS
    assert min(lengths[:num_first]) < shortest
    assert min(lengths[num_first:]) >= shortest
    assert max(lengths) <= longest


def test_every_request_fits_the_engine():
    served = workload(rate_per_s=20.0)
    for request in [*served.online, *itertools.islice(served.offline, 300)]:
        assert request.prompt_token_ids
        total_tokens = len(request.prompt_token_ids) + request.output_tokens
        assert total_tokens <= ENGINE_SETTINGS["max_model_len"]


@pytest.fixture
def data_folder(tmp_path):
    """A trace of two requests a second for two minutes, and one question."""
    rows = [
        f"2023-11-16 18:{s // 60:02}:{s % 60:02},{1600},{100}" for s in range(120) for _ in "12"
    ]
    for name, lines in (
        (AZURE, [",".join(AZURE_COLUMNS), *rows]),
        (GSM8K, ['{"question": "Why?", "answer": "So."}']),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_real_trace_is_thinned_to_the_rate_and_shortened(data_folder):
    served = workload(folder=data_folder, rate_per_s=0.5)
    assert len(served.online) == 20
    assert {len(request.prompt_token_ids) for request in served.online} == {100}
    assert {request.output_tokens for request in served.online} == {50}
    assert all(0 <= request.arrival_s < 40 for request in served.online)


def test_run_longer_than_the_trace_is_refused_with_its_length(data_folder):
    with pytest.raises(ValueError, match="must be <= 119 s"):
        make_workload(data_folder, WordTokenizer(), 0.5, duration_s=200.0, seed=0)


def test_rate_above_the_trace_is_refused(data_folder):
    with pytest.raises(ValueError, match="rate_per_s must be <="):
        workload(folder=data_folder, rate_per_s=5.0)
