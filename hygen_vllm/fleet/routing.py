# SPDX-License-Identifier: Apache-2.0
"""Which engine gets a request. Pure.

A router knows what the engines told of their load some time ago, and what it sent since. The one of
ours, SloRouter, sends a request where its first token is expected soonest and where it delays the
tokens of others least: both are seconds, by what a step costs each engine.
"""

import random
from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hygen_vllm.fleet.engine_load import EngineLoad

Loads = Mapping[Hashable, EngineLoad]
"""What each engine told last; another object for each report."""
PREFIXES_KEPT = 20_000
"""Hashes that are remembered of each engine."""
UNKNOWN_TOKEN_S = 1e-4
"""Seconds of a prefill token where no engine knows."""
HARM = 0.1
"""Weight of the seconds by which other requests are delayed."""
FULL_S = 1.0
"""What it costs to come to an engine whose KV cache is full, beside the work."""


@dataclass(frozen=True, slots=True)
class RoutedRequest:
    """What is known of a request before it is tokenized.

    Args:
        prompt_tokens: about how many.
        prefix: chained hashes of its beginning.
        tokens_per_hash: about how many tokens one of them adds.
    """

    prompt_tokens: float
    prefix: Sequence[Hashable] = ()
    tokens_per_hash: float = 1.0


class Router(Protocol):
    """Chooses among engines, of which there is one at least."""

    def choose(self, request: RoutedRequest, loads: Loads, /) -> Hashable:
        """Return the engine that gets a request, which is then sent."""

    def completed(self, engine: Hashable) -> None:
        """Note that an engine is done with a request."""


class RoundRobin:
    """Each in turn."""

    def __init__(self) -> None:
        self._num_sent: Counter[Hashable] = Counter()

    def choose(self, _: RoutedRequest, loads: Loads) -> Hashable:
        engine = min(loads, key=lambda name: self._num_sent[name])
        self._num_sent[engine] += 1
        return engine

    def completed(self, engine: Hashable) -> None:
        pass


class PowerOfTwo:
    """Of two at random the one with fewer requests, as Ray Serve does by default."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._num_ongoing: Counter[Hashable] = Counter()

    def choose(self, _: RoutedRequest, loads: Loads) -> Hashable:
        some = self._random.sample(list(loads), min(2, len(loads)))
        engine = min(some, key=lambda name: self._num_ongoing[name])
        self._num_ongoing[engine] += 1
        return engine

    def completed(self, engine: Hashable) -> None:
        self._num_ongoing[engine] -= 1


class _Known:
    """What a router knows of an engine."""

    def __init__(self) -> None:
        self.load: EngineLoad | None = None
        self.prefill_tokens = 0.0
        """Sent since the report."""
        self.num_sent = 0
        self._prefixes: OrderedDict[Hashable, None] = OrderedDict()

    def heard(self, load: EngineLoad) -> None:
        """Note a report, which has what was sent before it."""
        if load is not self.load:
            self.load, self.prefill_tokens, self.num_sent = load, 0.0, 0

    def cached_tokens(self, request: RoutedRequest) -> float:
        """Return how much of a prompt the engine has probably cached."""
        matched = 0
        for name in request.prefix:
            if name not in self._prefixes:
                break
            matched += 1
        return min(matched * request.tokens_per_hash, request.prompt_tokens)

    def sent(self, request: RoutedRequest, new_tokens: float) -> None:
        self.prefill_tokens += new_tokens
        self.num_sent += 1
        for name in request.prefix[:PREFIXES_KEPT]:
            self._prefixes[name] = None
            self._prefixes.move_to_end(name)
        while len(self._prefixes) > PREFIXES_KEPT:
            self._prefixes.popitem(last=False)


class SloRouter:
    """See the module docstring.

    Args: seed: of the choice among equals.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._known: dict[Hashable, _Known] = {}

    def choose(self, request: RoutedRequest, loads: Loads) -> Hashable:
        for name in [name for name in self._known if name not in loads]:
            del self._known[name]
        known_token_s = [load.prefill_token_s for load in loads.values() if load.prefill_token_s]
        token_s = max(known_token_s, default=UNKNOWN_TOKEN_S)
        best = (float("inf"), 0.0)
        chosen, new_tokens = next(iter(loads)), 0.0
        for name, load in loads.items():
            known = self._known.setdefault(name, _Known())
            known.heard(load)
            own = max(1.0, request.prompt_tokens - known.cached_tokens(request))
            place = self._expected_s(own, load, known, token_s), self._random.random()
            if place < best:
                best, chosen, new_tokens = place, name, own
        self._known[chosen].sent(request, new_tokens)
        return chosen

    def completed(self, engine: Hashable) -> None:
        pass

    @staticmethod
    def _expected_s(own: float, load: EngineLoad, known: _Known, token_s: float) -> float:
        """Return the seconds to the first token, and those by which others are delayed."""
        token_s = load.prefill_token_s or token_s
        queue = load.online_prefill_tokens + known.prefill_tokens
        others = load.num_online + known.num_sent
        missing = max(0.0, queue + own - load.free_tokens)
        full_s = FULL_S + missing * token_s if missing else 0.0
        return (queue + own) * token_s + load.decode_step_s + HARM * own * token_s * others + full_s


ROUTERS = ("round-robin", "power-of-two", "slo")


def make_router(name: str, seed: int) -> Router:
    """Return the router of a name in ROUTERS."""
    if name == "round-robin":
        return RoundRobin()
    return PowerOfTwo(seed) if name == "power-of-two" else SloRouter(seed)
