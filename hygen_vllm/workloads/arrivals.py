# SPDX-License-Identifier: Apache-2.0
"""When online requests arrive and how many tokens each brings: the Azure 2023 conversation trace.

The trace is one hour of production requests (Azure/AzurePublicDataset, CC-BY-4.0; Splitwise, ISCA
2024). Without the file, `generate_azure_like` draws requests with the trace's published statistics.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

AZURE_CONVERSATION = Path("azure2023", "AzureLLMInferenceTrace_conv.csv")
AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

# Quantiles of the Azure conversation trace (19,366 requests). Its means, 1155 prompt and 211 output
# tokens, follow from them within 2 %; its gaps have a coefficient of variation of 1.09.
QUANTILE_LEVELS = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1)
PROMPT_TOKEN_QUANTILES = (
    *(2, 181, 207, 387, 403, 703, 1020, 1071, 1130, 1315),
    *(2734, 4083, 4142, 6179, 14050),
)
OUTPUT_TOKEN_QUANTILES = (7, 41, 54, 77, 91, 103, 129, 177, 384, 400, 424, 451, 601, 954, 1000)
GAP_VARIATION = 1.09


@dataclass(frozen=True)
class Arrival:
    """One request of a trace; `time_s` counts from the start of the trace."""

    time_s: float
    prompt_tokens: int
    output_tokens: int


def read_azure_csv(path: Path) -> list[Arrival]:
    """Return the requests of an Azure trace in order of time, the first at 0 s.

    Raises: ValueError with file and line if a row cannot be read, or if there is none.
    """
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.reader(file)
        header = tuple(next(rows, ()))
        if header[: len(AZURE_COLUMNS)] != AZURE_COLUMNS:
            raise ValueError(f"{path}:1: expected the columns {','.join(AZURE_COLUMNS)}")
        stamped = sorted(_parse_rows(path, rows), key=lambda pair: pair[0])
    if not stamped:
        raise ValueError(f"{path}: no requests after the header")
    first = stamped[0][0]
    return [replace(item, time_s=(stamp - first).total_seconds()) for stamp, item in stamped]


def _parse_rows(path: Path, rows: Iterable[list[str]]) -> Iterator[tuple[datetime, Arrival]]:
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        try:
            yield _parse_row(row)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}:{line}: cannot read {','.join(row)!r}: {error}") from None


def _parse_row(row: list[str]) -> tuple[datetime, Arrival]:
    if len(row) < len(AZURE_COLUMNS):
        raise ValueError(f"expected {len(AZURE_COLUMNS)} fields, got {len(row)}")
    # The trace has seven digits after the second, datetime keeps six.
    stamp = datetime.fromisoformat(row[0].strip()[:26])
    arrival = Arrival(0.0, prompt_tokens=int(row[1]), output_tokens=int(row[2]))
    if min(arrival.prompt_tokens, arrival.output_tokens) < 1:
        raise ValueError("token counts must be >= 1")
    return stamp, arrival


def cut(arrivals: list[Arrival], start_s: float, duration_s: float) -> list[Arrival]:
    """Return the arrivals in [start_s, start_s + duration_s), their times counted from start_s."""
    end_s = start_s + duration_s
    return [
        replace(arrival, time_s=arrival.time_s - start_s)
        for arrival in arrivals
        if start_s <= arrival.time_s < end_s
    ]


def thin(arrivals: list[Arrival], rate_per_s: float, duration_s: float, seed: int) -> list[Arrival]:
    """Keep rate_per_s * duration_s arrivals, each equally likely, at their own times.

    Bursts and lulls stay where they are, only fewer requests make them.
    Raises: ValueError if the trace holds fewer than that.
    """
    num_kept = round(rate_per_s * duration_s)
    if num_kept > len(arrivals):
        raise ValueError(
            f"rate_per_s must be <= {len(arrivals) / duration_s:.2f}, the rate of this part of "
            f"the trace, got {rate_per_s}"
        )
    kept = np.random.default_rng(seed).choice(len(arrivals), size=num_kept, replace=False)
    return [arrivals[index] for index in sorted(kept)]


def generate_azure_like(rate_per_s: float, duration_s: float, seed: int) -> list[Arrival]:
    """Return arrivals with gamma gaps and lengths distributed like the Azure trace's."""
    rng = np.random.default_rng(seed)
    shape = GAP_VARIATION**-2
    arrivals = []
    time_s = rng.gamma(shape, 1 / (rate_per_s * shape))
    while time_s < duration_s:
        prompt_tokens = _draw(rng, PROMPT_TOKEN_QUANTILES)
        arrivals.append(Arrival(time_s, prompt_tokens, _draw(rng, OUTPUT_TOKEN_QUANTILES)))
        time_s += rng.gamma(shape, 1 / (rate_per_s * shape))
    return arrivals


def _draw(rng: np.random.Generator, quantiles: tuple[int, ...]) -> int:
    return round(float(np.interp(rng.random(), QUANTILE_LEVELS, quantiles)))


@dataclass(frozen=True)
class LengthScale:
    """Divides the lengths of a trace for a small machine, then caps them; all stay >= 1."""

    prompt_divisor: float
    max_prompt_tokens: int
    output_divisor: float
    max_output_tokens: int

    def apply(self, arrival: Arrival) -> Arrival:
        """Return the arrival with shorter lengths, at the same time."""
        prompt_tokens = round(arrival.prompt_tokens / self.prompt_divisor)
        output_tokens = round(arrival.output_tokens / self.output_divisor)
        return Arrival(
            time_s=arrival.time_s,
            prompt_tokens=max(1, min(prompt_tokens, self.max_prompt_tokens)),
            output_tokens=max(1, min(output_tokens, self.max_output_tokens)),
        )

    def __str__(self) -> str:
        return (
            f"prompts divided by {self.prompt_divisor:g} (at most {self.max_prompt_tokens} tokens),"
            f" outputs divided by {self.output_divisor:g} (at most {self.max_output_tokens})"
        )
