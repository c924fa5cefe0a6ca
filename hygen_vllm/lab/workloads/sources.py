# SPDX-License-Identifier: Apache-2.0
"""Finds a workload by what a user types: a file of a known kind, or a name.

Names of online workloads: `azure` and `mooncake` (the traces in $HYGEN_DATA; without them requests
with the Azure trace's statistics), and the processes of `arrival_processes.py`. Names of offline
ones: `arxiv`, `sharegpt`, `mmlu`, `gsm8k`, likewise, and `cnn-dailymail`, which is always drawn.
"""

import math
import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hygen_vllm.lab.workloads import data_dir
from hygen_vllm.lab.workloads.arrival_processes import (
    ARXIV_LENGTHS,
    CNN_LENGTHS,
    PROCESSES,
    SHAREGPT_LENGTHS,
    generate_azure_like,
    generate_backlog,
    generate_process,
    poisson_times,
)
from hygen_vllm.lab.workloads.arrivals import Arrival, at_times, cut, thin
from hygen_vllm.lab.workloads.few_shot import gsm8k_requests, mmlu_requests
from hygen_vllm.lab.workloads.tokenizers import Tokenizer
from hygen_vllm.lab.workloads.trace_files import (
    kind_of,
    read_azure_csv,
    read_burstgpt_csv,
    read_lengths_csv,
    read_mooncake_jsonl,
    read_prompts_jsonl,
)

AZURE = Path("azure2023", "AzureLLMInferenceTrace_conv.csv")
MOONCAKE = Path("mooncake", "conversation_trace.jsonl")
ARXIV = Path("lengths", "arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv")
SHAREGPT = Path("lengths", "sharegpt_8k_filtered_stats_llama2_tokenizer.csv")
ONLINE_NAMES = ("azure", "mooncake", *PROCESSES)
LENGTHS = {"arxiv": ARXIV_LENGTHS, "sharegpt": SHAREGPT_LENGTHS, "cnn-dailymail": CNN_LENGTHS}
OFFLINE_NAMES = (*LENGTHS, "mmlu", "gsm8k")
AZURE_RATE_PER_S = 5.53
GENERATED_REQUESTS = 10_000
GENERATED_S = 3600.0
# The arXiv file was cut at 4,096 tokens in all, which left some odd rows.
ARXIV_FEWEST_PROMPT_TOKENS, ARXIV_MOST_OUTPUT_TOKENS = 100, 1000


@dataclass(frozen=True)
class Workload:
    """Requests in order of time, and where they come from, in words."""

    requests: list[Arrival]
    source: str


@dataclass(frozen=True)
class OnlineQuery:
    """What is asked of an online workload.

    Args:
        what: a file or one of ONLINE_NAMES.
        rate_per_s: mean rate; None for the trace's own.
        duration_s: only what arrives before; None for all of it.
    """

    what: str
    rate_per_s: float | None
    duration_s: float | None
    seed: int


def find_online(query: OnlineQuery, tokenizer: Tokenizer) -> Workload:
    """Return online requests with their times.

    A trace is thinned to the rate, each request as likely to stay as any other, so that its bursts
    and lulls stay too. Requests from a file without times come as a Poisson process.
    Raises: ValueError, one line, if there is no such workload or not enough of it; OSError.
    """
    duration_s = GENERATED_S if query.duration_s is None else query.duration_s
    path = _path(query.what, {"azure": AZURE, "mooncake": MOONCAKE}, ONLINE_NAMES)
    if path is None:
        rate_per_s = AZURE_RATE_PER_S if query.rate_per_s is None else query.rate_per_s
        is_process = query.what in PROCESSES
        name = query.what if is_process else "gamma gaps"
        source = f"generated, {name}, lengths as in the Azure 2023 conversation trace"
        if is_process:
            made = generate_process(query.what, rate_per_s, duration_s, query.seed)
        else:
            made = generate_azure_like(rate_per_s, duration_s, query.seed)
        return Workload(made, f"{source}, {rate_per_s:g} req/s")
    requests = _read(path, tokenizer, query.seed)
    if requests[-1].time_s == 0.0:
        return _paced(requests, path, query)
    span_s = min(requests[-1].time_s, query.duration_s or requests[-1].time_s)
    if query.duration_s is not None:
        requests = cut(requests, 0.0, query.duration_s)
    source = path.name
    if query.rate_per_s is not None:
        requests = thin(requests, query.rate_per_s, span_s, query.seed)
        source += f", thinned to {query.rate_per_s:g} req/s"
    return Workload(requests, source)


def _paced(requests: list[Arrival], path: Path, query: OnlineQuery) -> Workload:
    if query.rate_per_s is None:
        raise ValueError(f"{path} has no times: say at which rate its requests arrive")
    end_s = math.inf if query.duration_s is None else query.duration_s
    times_s = poisson_times(query.rate_per_s, end_s, query.seed)
    source = f"{path.name}, Poisson, {query.rate_per_s:g} req/s"
    return Workload(at_times(requests, times_s), source)


def find_offline(what: str, count: int | None, seed: int, tokenizer: Tokenizer) -> Workload:
    """Return offline requests, all there from the start, `count` at most (None: all).

    A generated workload has GENERATED_REQUESTS unless `count` says otherwise.
    Raises: ValueError, one line, if there is no such workload; OSError.
    """
    root = data_dir()
    few_shot = {"mmlu": mmlu_requests, "gsm8k": gsm8k_requests}
    if what in few_shot:
        requests = few_shot[what](root, tokenizer, seed)
        source = f"{what.upper()}, few-shot{'' if root else ', built-in questions'}"
        return _first(Workload(requests, source), count)
    path = _path(what, {"arxiv": ARXIV, "sharegpt": SHAREGPT}, OFFLINE_NAMES)
    if path is None:
        num_requests = GENERATED_REQUESTS if count is None else count
        made = generate_backlog(LENGTHS[what], num_requests, seed)
        return Workload(made, f"generated, lengths as in {what}")
    requests = _read(path, tokenizer, seed)
    if path.name == ARXIV.name:
        requests = [item for item in requests if _is_usual(item)]
    random.Random(seed).shuffle(requests)
    return _first(Workload(at_times(requests, [0.0] * len(requests)), path.name), count)


def _first(workload: Workload, count: int | None) -> Workload:
    return Workload(workload.requests[:count], workload.source)


def _is_usual(item: Arrival) -> bool:
    is_long = item.prompt_tokens >= ARXIV_FEWEST_PROMPT_TOKENS
    return is_long and item.output_tokens <= ARXIV_MOST_OUTPUT_TOKENS


def _path(what: str, known: dict[str, Path], names: tuple[str, ...]) -> Path | None:
    """Return the file that is meant, None if the workload is to be generated."""
    root = data_dir()
    if what in known and root is not None:
        return root / known[what]
    if what in names:
        return None
    path = Path(what)
    with suppress(RuntimeError):  # no user has that name
        path = path.expanduser()
    if not path.is_file():
        raise ValueError(f"cannot read {what}: no such file, nor one of {', '.join(names)}")
    return path


def _read(path: Path, tokenizer: Tokenizer, seed: int) -> list[Arrival]:
    """Read a file of any of the known kinds."""
    match kind_of(path):
        case "azure":
            return read_azure_csv(path)
        case "burstgpt":
            return read_burstgpt_csv(path, seed)
        case "lengths":
            return read_lengths_csv(path)
        case "mooncake":
            return read_mooncake_jsonl(path, seed)
        case _:
            return read_prompts_jsonl(path, tokenizer)
