# SPDX-License-Identifier: Apache-2.0
"""Makes room for the online class before vLLM builds a step, by preempting offline requests.

vLLM admits no waiting request in a step in which it had to preempt (:900), and under its priority
policy it may choose an online victim. So whatever online needs in this step is free before vLLM
looks: slots, LoRA adapters, encoder cache, KV blocks. Where running offline requests lack blocks
for themselves, one of them is preempted for the others.

Victims are those that lose least: blocks that nobody else holds, over the tokens that they are
expected to go on to make, plus PATIENCE_TOKENS. A request that waits with the KV that a connector
loaded for it, which vLLM would leave it, is a victim like one that runs.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

from vllm.v1.request import Request

from hygen_vllm.engine.arrivals import Arrival
from hygen_vllm.engine.state import EngineState, lora_id, num_coming_free
from hygen_vllm.engine.victims import BlockVictims

PATIENCE_TOKENS = 100.0
"""Added to the tokens that a victim has still to make, so that a few more hardly matter."""
PLENTY = 8
"""Where so many times the blocks are free that decodes could take, nobody counts which do."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is left for offline after online's share is set aside."""

    num_preempted: int
    blocks_left: int
    adapters: frozenset[int]
    """LoRA adapters that running requests and arrivals hold."""
    encoder_is_reserved: bool
    """Whether online requests need the encoder, now or soon."""
    online_adapters: frozenset[int] = frozenset()
    """Those of them that online requests hold."""
    hits: AbstractSet[int] = frozenset()
    """Cached blocks that arrivals share, by id."""
    num_arrivals: int = 0
    """Those that vLLM can admit in this step, the first of all."""


def room_of_decodes(state: EngineState, num_online: int) -> Room | None:
    """Return what is left for offline where nobody arrives, and online only decodes.

    So it is in most steps. Returns None where blocks are short, or may be.

    Args: num_online: running online requests.
    """
    if state.max_loras is not None or state.freed_later:
        return None
    num_steps = 2 if state.frees_blocks_late else 1
    growth = num_steps * num_online * state.most_blocks_per_decode
    num_free = state.free_blocks_now()
    if growth > num_free // PLENTY:
        return None
    return Room(0, num_free - growth, frozenset(), encoder_is_reserved=False)


class RoomMaker:
    """One step's preemptions.

    Args:
        holding: offline requests that wait with KV blocks, without those that lost them meanwhile.
        arrivals: waiting online requests that could run in this step, in order.
        num_online: running online requests, the first of those that run.
        most_tokens_each: vLLM's cap of a chunk.
        remaining_tokens: how many tokens an offline request is expected to go on to make.
    """

    def __init__(  # noqa: PLR0913 - made in one place, once a step
        self,
        state: EngineState,
        holding: Collection[Request],
        arrivals: Sequence[Arrival],
        *,
        num_online: int,
        most_tokens_each: int,
        remaining_tokens: Callable[[Request], float],
        now_s: float,
    ) -> None:
        self._state = state
        self._holding = holding if len(holding) else ()
        self._arrivals = arrivals
        self._remaining_tokens = remaining_tokens
        self._now_s = now_s
        self._online = state.running[:num_online]
        self._encodes = [
            (r, r.num_computed_tokens, r.num_computed_tokens + most_tokens_each)
            for r in self._online
            if r.has_encoder_inputs and r.is_prefill_chunk
        ]
        """Online requests that may have images to compute, and from which token to which."""
        self._encodes += [
            (arrival.request, arrival.cached_tokens, arrival.request.num_tokens)
            for arrival in arrivals
            if arrival.request.has_encoder_inputs
        ]
        self._num_deferred = self._num_entries = 0
        """Blocks that come free when steps in flight have completed, and the entries counted."""
        self._growth = self._running_growth(most_tokens_each, 1)
        self._ahead = 0
        """What is taken comes free in the next step only: blocks that will be wanted there."""
        if state.frees_blocks_late:
            self._ahead = self._running_growth(most_tokens_each, 2) - self._growth
        self.num_preempted = 0
        self._taken = self._growth
        """Free blocks that running online requests and the arrivals looked at take."""
        self._adopted: set[int] = set()
        """Hits of those arrivals, by block id."""
        self._offline_refs: dict[int, int] = {}
        """How many offline requests hold each block, once that has to be known."""
        self._gain: set[int] = set()
        """Blocks among them that only offline requests hold, and that are no hits."""

    def make_room(self, offline_is_stuck: bool) -> Room:
        """Preempt what online needs and return what is left.

        Args:
            offline_is_stuck: a running offline request lacked KV blocks in the last step.
        """
        has_loras = self._state.max_loras is not None
        self._leave_out_arrivals(self._without_room())
        if self._offline():
            if self._arrivals:
                self._free_slots()
            if has_loras:
                self._free_adapters()
        if self._holders() and self._encodes:
            self._free_encoder_cache()
        self._free_blocks()
        if offline_is_stuck and not self.num_preempted and len(self._holders()) > 1:
            self._preempt(min(self._holders(), key=self._loss))
        return Room(
            num_preempted=self.num_preempted,
            blocks_left=max(0, self._free() - self._blocks_set_aside()),
            adapters=self._adapters(self._state.running) if has_loras else frozenset(),
            encoder_is_reserved=bool(self._encodes),
            online_adapters=self._adapters(self._online) if has_loras else frozenset(),
            hits=self._adopted,
            num_arrivals=len(self._arrivals),
        )

    def _offline(self) -> list[Request]:
        return self._state.running[len(self._online) :]

    def _holders(self) -> list[Request]:
        """Return the offline requests whose KV blocks can be taken."""
        if not self._holding:
            return self._offline()
        return [*self._offline(), *filter(self._state.has_loaded, self._holding)]

    def _loss(self, request: Request) -> tuple[float, int]:
        rest = self._remaining_tokens(request) + PATIENCE_TOKENS
        return self._state.num_unshared(request) / rest, request.num_computed_tokens

    def _free(self) -> int:
        """As EngineState.free_blocks, which looks at every block that comes free each time."""
        deferred = self._state.freed_later
        if len(deferred) > self._num_entries:
            new = islice(deferred, self._num_entries, None)
            self._num_deferred += sum(num_coming_free(blocks) for _, blocks in new)
            self._num_entries = len(deferred)
        return self._state.free_blocks_now() + self._num_deferred

    def _preempt(self, victim: Request) -> None:
        self._state.preempt(victim, self._now_s)
        self.num_preempted += 1

    def _preempt_until(self, enough: Callable[[], bool], victims: Iterable[Request]) -> None:
        if not enough():
            for victim in sorted(victims, key=self._loss):
                self._preempt(victim)
                if enough():
                    return

    def _free_slots(self) -> None:
        most_running = self._state.slots - len(self._arrivals)
        self._preempt_until(lambda: len(self._state.running) <= most_running, self._offline())

    def _adapters(self, running: Iterable[Request]) -> frozenset[int]:
        """Adapters of running requests, then of arrivals in order while they fit."""
        adapters = {lora_id(request) for request in running} - {0}
        for arrival in self._arrivals:
            adapter = lora_id(arrival.request)
            if adapter and len(adapters) < (self._state.max_loras or 0):
                adapters.add(adapter)
        return frozenset(adapters)

    def _free_adapters(self) -> None:
        wanted = self._adapters(filter(self._state.holds_adapter, self._online))
        max_loras = self._state.max_loras or 0
        self._preempt_until(
            lambda: len(wanted | ({lora_id(r) for r in self._offline()} - {0})) <= max_loras,
            [r for r in self._offline() if lora_id(r) not in wanted | {0}],
        )

    def _free_encoder_cache(self) -> None:
        state = self._state
        wanted = sum(state.missing_encoder_embeds(*encode) for encode in self._encodes)

        def is_enough() -> bool:
            num_free, most = state.free_encoder_embeds()
            return num_free >= min(wanted, most)

        self._preempt_until(is_enough, filter(state.holds_encoder_cache, self._holders()))

    def _leave_out_arrivals(self, first: int) -> None:
        """Leave out those that vLLM does not admit in this step, from a place on."""
        self._arrivals = self._arrivals[:first]

    def _without_room(self) -> int:
        """Return the place of the first arrival that has no room even if all offline work made way.

        A guess from above, which counts shared blocks more than once; `_free_blocks` looks closely.
        """
        if not self._arrivals:
            return 0
        most = self._free() + sum(map(self._state.num_held, self._holders()))
        taken = self._taken
        for place, arrival in enumerate(self._arrivals):
            num_hits = sum(len(hits.blocks) for hits in arrival.hits)
            if taken + arrival.all_blocks - num_hits > most:
                return place
            taken += max(0, arrival.chunk_blocks - num_hits)
        return len(self._arrivals)

    def _free_blocks(self) -> None:
        """Free blocks for running online requests, then for arrivals, in order.

        Stops at the first arrival for which preempting every offline request would not be enough:
        vLLM admits none behind it, so preempting for those would help nobody.
        """
        self._preempt_until_free(lambda: self._taken + self._ahead)
        for place, arrival in enumerate(self._arrivals):
            is_first = place == 0
            num_held = arrival.num_held(self._adopted)
            adopts = arrival.adopts(self._adopted)
            self._adopted.update(adopts)
            self._gain.difference_update(adopts)
            rest = max(0, arrival.all_blocks - num_held)  # vLLM admits it only if all of it fits
            wanted = partial(self._blocks_wanted, rest, is_first)
            if self._free() < wanted():
                if not self._would_have(rest, is_first):
                    self._leave_out_arrivals(place)
                    return
                self._preempt_until_free(wanted)
            self._taken += max(0, arrival.chunk_blocks - num_held)

    def _preempt_until_free(self, wanted: Callable[[], int]) -> None:
        """Preempt until as many blocks are free as are wanted; victims may change how many."""
        while self._free() < wanted() and self._victims:
            self._take_blocks(self._victims.first())

    @cached_property
    def _victims(self) -> BlockVictims:
        return BlockVictims(self._state, self._holders(), self._loss)

    def _take_blocks(self, victim: Request) -> None:
        block_ids = self._state.block_ids(victim)
        self._preempt(victim)
        self._victims.taken(victim, block_ids)
        blocks = self._state.blocks
        for block_id in block_ids:
            num_holders = blocks[block_id].ref_cnt
            if not num_holders and block_id in self._adopted:
                self._taken += 1
            if self._offline_refs:
                self._offline_refs[block_id] -= 1
                if not 0 < num_holders <= self._offline_refs[block_id]:
                    self._gain.discard(block_id)

    def _blocks_wanted(self, rest: int, is_first: bool) -> int:
        """Free blocks with which vLLM would admit an arrival now that takes `rest`."""
        is_busy = not is_first or bool(self._state.running)
        return self._taken + rest + self._state.watermark(is_busy)

    def _would_have(self, rest: int, is_first: bool) -> bool:
        """Whether vLLM would admit it if no offline request ran."""
        is_busy = not is_first or bool(self._online)
        wanted = self._taken + rest + self._state.watermark(is_busy)
        short = wanted - self._free()
        if not self._offline_refs:
            offline = self._holders()
            if sum(map(self._state.num_held, offline)) < short:
                return False  # the common case, told without looking at every block
            blocks = self._state.blocks
            self._offline_refs = self._state.block_holders(offline)
            refs = self._offline_refs.items()
            only_offline = {block_id for block_id, num in refs if blocks[block_id].ref_cnt <= num}
            self._gain = only_offline - self._adopted
        return short <= len(self._gain)

    def _blocks_set_aside(self) -> int:
        """Blocks kept from offline: growth, and all that arrivals will need beyond this step."""
        growth = self._growth + self._ahead
        if not self._arrivals:
            return growth
        taken = sum(max(0, a.all_blocks - a.num_held(frozenset())) for a in self._arrivals)
        return growth + taken + self._state.watermark(is_busy=True)

    def _running_growth(self, most_tokens_each: int, num_steps: int) -> int:
        """Blocks running online requests may take in steps; a bound where blocks are plenty."""
        state = self._state
        if not self._arrivals:
            rough = num_steps * len(self._online) * state.most_blocks_per_decode
            are_decodes = all(not request.is_prefill_chunk for request in self._online)
            if are_decodes and rough <= self._free() // PLENTY:
                return rough
        return sum(
            state.blocks_to_add(
                request,
                request.num_computed_tokens
                + num_steps * min(most_tokens_each, state.tokens_now(request)),
            )
            for request in self._online
        )
