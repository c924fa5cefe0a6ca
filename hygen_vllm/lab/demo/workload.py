# SPDX-License-Identifier: Apache-2.0
"""The demo's input: online arrivals as in the Azure trace, and an offline backlog without end.

Prompts are tokenized and output lengths drawn once, so that every policy serves the same requests.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hygen_vllm.lab.demo.policies import ENGINE_SETTINGS
from hygen_vllm.lab.workloads.arrival_processes import generate_azure_like
from hygen_vllm.lab.workloads.arrivals import Arrival, LengthScale, cut, thin
from hygen_vllm.lab.workloads.prompts import PromptCutter, load_questions, offline_prompts
from hygen_vllm.lab.workloads.sources import AZURE
from hygen_vllm.lab.workloads.tokenizers import Tokenizer
from hygen_vllm.lab.workloads.trace_files import read_azure_csv

ONLINE, OFFLINE = "online", "offline"
# On average 72 prompt and 80 output tokens: what one CPU core carries at 0.8 req/s.
LENGTH_SCALE = LengthScale(
    prompt_divisor=16, max_prompt_tokens=128, output_divisor=2, max_output_tokens=128
)
OFFLINE_OUTPUT_TOKENS = (100, 200)


@dataclass(frozen=True)
class DemoRequest:
    """What is sent to the engine; `arrival_s` counts from the start of the warm-up."""

    slo_class: str
    prompt_token_ids: list[int]
    output_tokens: int
    arrival_s: float = 0.0


@dataclass
class Workload:
    """The input of one demo; `offline` is endless and read anew by every policy."""

    online: list[DemoRequest]
    offline: "OfflineBacklog"
    online_source: str
    offline_source: str


class OfflineBacklog:
    """Offline requests by number; the same number is always the same request.

    The first ones, which fill the engine at once, have outputs of any length up to the longest, as
    if they had been running for a while. Otherwise they would end, and restart, in waves.
    """

    def __init__(self, prompts: Iterator[str], tokenizer: Tokenizer, seed: int) -> None:
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._rng = random.Random(seed)
        self._made: list[DemoRequest] = []

    def __iter__(self) -> Iterator[DemoRequest]:
        """Yield request 0, 1, 2, ... without end."""
        number = 0
        while True:
            if number == len(self._made):
                self._made.append(self._make())
            yield self._made[number]
            number += 1

    def _make(self) -> DemoRequest:
        shortest, longest = OFFLINE_OUTPUT_TOKENS
        if len(self._made) < ENGINE_SETTINGS["max_num_seqs"]:
            shortest = 1
        return DemoRequest(
            OFFLINE,
            prompt_token_ids=self._tokenizer.encode(next(self._prompts)),
            output_tokens=self._rng.randint(shortest, longest),
        )


def make_workload(
    data_dir: Path | None, tokenizer: Tokenizer, rate_per_s: float, duration_s: float, seed: int
) -> Workload:
    """Return duration_s of online arrivals at rate_per_s, and the offline backlog.

    Raises: ValueError if the data cannot be read, or holds too few requests or seconds.
    """
    arrivals, source = _online_arrivals(data_dir, rate_per_s, duration_s, seed)
    questions = load_questions(data_dir, seed)
    cutter = PromptCutter(questions, tokenizer, seed)
    online = [
        DemoRequest(ONLINE, cutter.take(item.prompt_tokens), item.output_tokens, item.time_s)
        for item in map(LENGTH_SCALE.apply, arrivals)
    ]
    # Built-in questions are shorter: four of them make up for two of GSM8K.
    text, num_examples = ("GSM8K", 1) if data_dir else ("built-in", 3)
    low, high = OFFLINE_OUTPUT_TOKENS
    return Workload(
        online,
        OfflineBacklog(offline_prompts(questions, num_examples, seed), tokenizer, seed),
        online_source=f"{rate_per_s:g} req/s, {source}; {LENGTH_SCALE}",
        offline_source=(
            f"endless {text} questions after {num_examples} worked example(s) each, "
            f"{low} to {high} output tokens"
        ),
    )


def _online_arrivals(
    data_dir: Path | None, rate_per_s: float, duration_s: float, seed: int
) -> tuple[list[Arrival], str]:
    if data_dir is None:
        source = "generated with the Azure 2023 conversation trace's statistics"
        return generate_azure_like(rate_per_s, duration_s, seed), source
    trace = read_azure_csv(data_dir / AZURE)
    trace_s = trace[-1].time_s
    if duration_s > trace_s:
        raise ValueError(f"a run must be <= {trace_s:.0f} s, the trace's length, got {duration_s}")
    start_s = random.Random(seed).uniform(0, trace_s - duration_s)
    part = thin(cut(trace, start_s, duration_s), rate_per_s, duration_s, seed)
    return part, f"Azure 2023 conversation trace from {start_s:.0f} s on, thinned"
