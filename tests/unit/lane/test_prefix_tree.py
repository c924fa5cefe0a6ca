# SPDX-License-Identifier: Apache-2.0
"""PrefixTree beside a plain list of prefixes: same sharers, same savings, at a bounded cost."""

import random
from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hygen_vllm.lane.prefix_tree import Branch, Leaf, Node, PrefixTree, num_common


def chain(words: Sequence[int]) -> list[tuple[int, ...]]:
    """Return one hash per word that stands for the word and all before it."""
    return list(accumulate(((word,) for word in words), lambda a, b: a + b))


def tree_of(*prefixes: Sequence[int]) -> tuple[PrefixTree[int], list[Leaf[int]]]:
    """Return a tree of prefixes, named by their place, and their leaves."""
    tree: PrefixTree[int] = PrefixTree()
    leaves = [tree.add(number, chain(words)) for number, words in enumerate(prefixes)]
    tree.check_invariants()
    return tree, leaves


def order(tree: PrefixTree[int]) -> list[int]:
    """Return the items in the order of `first`, each removed when it was."""
    items = []
    while len(tree):
        leaf = tree.first(tree.root)
        items.append(leaf.item)
        tree.remove(leaf)
        tree.check_invariants()
    return items


def test_add_of_a_sharer_splits_an_edge_at_the_common_length() -> None:
    """The shared stretch becomes a branch, the rests are its leaves."""
    _, (one, other) = tree_of([1, 2, 3, 4], [1, 2, 7])
    branch = one.parent
    assert branch is other.parent
    assert branch is not None
    assert (0, 2, 2, 2) == branch.state
    assert (2, 4, 1, 0) == one.state
    assert (2, 3, 1, 0) == other.state


def test_remove_of_a_sharer_merges_the_edge_again() -> None:
    """What is left is as if the other one had never come."""
    tree, (one, other) = tree_of([1, 2, 3, 4], [1, 2, 7])
    tree.remove(other)
    tree.check_invariants()
    assert one.parent is tree.root
    assert (0, 4, 1, 0) == one.state
    assert 1 == len(tree)


def test_equal_prefixes_are_leaves_without_blocks_of_their_own() -> None:
    """Three equal prompts of three blocks save two times three."""
    tree, leaves = tree_of([1, 2, 3], [1, 2, 3], [1, 2, 3])
    (branch,) = tree.root.children.values()
    assert (0, 3, 3, 6) == branch.state
    assert [(3, 3)] * 3 == [(leaf.start, leaf.end) for leaf in leaves]
    assert [0, 1, 2] == order(tree)


def test_prefix_of_another_prefix_is_a_leaf_at_its_end() -> None:
    """A shorter prompt stands where the longer one goes on, whichever came first."""
    for prefixes in ([[1, 2], [1, 2, 3, 4]], [[1, 2, 3, 4], [1, 2]]):
        _, leaves = tree_of(*prefixes)
        assert sorted(len(words) for words in prefixes) == sorted(leaf.end for leaf in leaves)
        assert [2, 2] == [leaf.start for leaf in leaves]


def test_prefixes_without_blocks_share_nothing() -> None:
    """A prompt shorter than a block hangs at the root, and they leave in order of age."""
    tree, leaves = tree_of([], [], [1], [])
    assert all(leaf.parent is tree.root for leaf in leaves)
    assert [0, 1, 2, 3] == order(tree)


def test_saved_blocks_sum_what_sharers_save_at_every_depth() -> None:
    """Four share two blocks (3 x 2), two of them three more (1 x 3)."""
    tree, _ = tree_of([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7], [1, 2, 8], [1, 2])
    (branch,) = tree.root.children.values()
    assert 3 * 2 + 1 * 3 == branch.saved_blocks
    assert 4 == branch.num_leaves


def test_first_is_of_the_branch_that_saves_most_by_order_of_magnitude() -> None:
    """1, 8 and 9 saved blocks: the last two are alike, the older goes first; then single ones."""
    tree, _ = tree_of(
        *([9, 1], [9, 2]),
        *([*range(20, 28), 1], [*range(20, 28), 2]),
        *([*range(40, 49), 1], [*range(40, 49), 2]),
        [5, 5, 5],
    )
    assert [2, 4, 0, 1, 3, 5, 6] == order(tree)


def test_first_follows_a_rank_that_rises_and_falls() -> None:
    """A branch is visited by what it saves now."""
    tree, leaves = tree_of([1, 1, 1], [1, 1, 2], [2, 1, 1, 1], [2, 1, 1, 2])
    assert 0 == tree.first(tree.root).item
    extra = [tree.add(number, chain([2, 1, 1, number])) for number in (10, 11, 12)]
    assert 2 == tree.first(tree.root).item
    for leaf in extra:
        tree.remove(leaf)
    assert 0 == tree.first(tree.root).item
    assert leaves[0] is tree.first(tree.root)


def test_match_tells_the_common_length_and_the_node_that_holds_its_sharers() -> None:
    """Inside an edge, at a branch, beyond a leaf, and nowhere."""
    tree, (one, other) = tree_of([1, 2, 3, 4], [1, 2, 7])
    assert (one, 3) == tree.match(chain([1, 2, 3, 9]))
    assert (one.parent, 2) == tree.match(chain([1, 2, 8]))
    assert (one.parent, 1) == tree.match(chain([1]))
    assert (other, 3) == tree.match(chain([1, 2, 7, 7, 7]))
    assert (tree.root, 0) == tree.match(chain([4]))
    assert (tree.root, 0) == tree.match([])


def test_hashes_that_grow_after_they_were_added_do_not_matter() -> None:
    """vLLM appends the hashes of output blocks to the same list."""
    tree: PrefixTree[int] = PrefixTree()
    hashes = chain([1, 2])
    leaf = tree.add(0, hashes)
    hashes += chain([1, 2, 3, 4])[2:]
    tree.add(1, chain([1, 2, 3]))
    tree.check_invariants()
    assert 2 == leaf.end
    assert 3 == tree.match(hashes)[1]


def test_num_common_stays_within_its_bounds() -> None:
    """It is the first difference, found from wherever it may be."""
    one = chain(range(20))
    for same in range(21):
        other = chain([*range(same), *range(100, 120 - same)])
        assert same == num_common(one, other, 0, 20)
        assert same == num_common(one, other, same // 2, 20)
        assert min(same, 7) == num_common(one, other, 0, 7)


class Machine(RuleBasedStateMachine):
    """Prefixes come and go in any order; the model is a dictionary of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tree: PrefixTree[int] = PrefixTree()
        self.model: dict[int, list[int]] = {}
        self.leaves: dict[int, Leaf[int]] = {}
        self.count = 0

    @rule(words=st.lists(st.integers(0, 1), max_size=7))
    def add(self, words: list[int]) -> None:
        self.leaves[self.count] = self.tree.add(self.count, chain(words))
        self.model[self.count] = words
        self.count += 1

    @precondition(lambda self: self.model)
    @rule(pick=st.integers(0, 1000))
    def remove(self, pick: int) -> None:
        item = sorted(self.model)[pick % len(self.model)]
        self.tree.remove(self.leaves.pop(item))
        del self.model[item]

    @rule(words=st.lists(st.integers(0, 1), max_size=8))
    def match(self, words: list[int]) -> None:
        lengths = {item: common(words, other) for item, other in self.model.items()}
        node, depth = self.tree.match(chain(words))
        most = max(lengths.values(), default=0)
        assert most == depth
        if depth:
            below = {leaf.item for leaf in leaves_below(node)}
            assert {item for item, length in lengths.items() if length == most} == below

    @invariant()
    def is_like_the_model(self) -> None:
        self.tree.check_invariants()
        assert len(self.model) == len(self.tree)
        assert set(self.model) == {leaf.item for leaf in self.tree}
        for child in self.tree.root.children.values():
            prefixes = [self.model[leaf.item] for leaf in leaves_below(child)]
            assert saved_blocks(prefixes) == child.saved_blocks
        if self.model:
            child = self.tree.root.first()
            assert min(other.place for other in self.tree.root.children.values()) == child.place
            assert self.tree.first(self.tree.root).item in self.model


def common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def saved_blocks(prefixes: list[list[int]]) -> int:
    """Return blocks in all less the different ones."""
    distinct = {tuple(words[: i + 1]) for words in prefixes for i in range(len(words))}
    return sum(map(len, prefixes)) - len(distinct) if len(prefixes) > 1 else 0


def leaves_below(node: object) -> list[Leaf[int]]:
    if not isinstance(node, Branch):
        assert isinstance(node, Leaf)
        return [node]
    return [leaf for child in node.children.values() for leaf in leaves_below(child)]


def test_tree_is_like_a_plain_list_whatever_happens() -> None:
    """Membership, sharers, savings and the first branch, after every change."""
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True),
    )


class CountedHash:
    """A hash that counts how often it is compared."""

    compared = 0

    def __init__(self, value: int) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        CountedHash.compared += 1
        return isinstance(other, CountedHash) and self.value == other.value


def counted_chain(words: Sequence[int]) -> list[CountedHash]:
    return [CountedHash(hash(prefix)) for prefix in chain(words)]


def test_cost_does_not_grow_with_the_tree_nor_with_the_length_of_a_prompt() -> None:
    """100 blocks, 57 families: some 20 comparisons each, with 500 requests as with 5,000."""
    rng = random.Random(1)

    def prompt() -> list[CountedHash]:
        family = rng.randrange(57)
        own = [rng.randrange(1 << 30) for _ in range(30)]
        return counted_chain([family * 1000 + i for i in range(70)] + own)

    tree: PrefixTree[int] = PrefixTree()
    cost = {}
    for count in (500, 5_000):
        while len(tree) < count:
            tree.add(len(tree), counted_chain([rng.randrange(1 << 30)]) + prompt()[1:10])
            tree.add(len(tree), prompt())
        CountedHash.compared = 0
        for _ in range(50):
            leaf = tree.add(-1, prompt())
            tree.match(prompt())
            tree.remove(leaf)
        cost[count] = CountedHash.compared / 50
    assert cost[5_000] <= cost[500] + 2
    assert cost[5_000] <= 24


def test_no_single_change_looks_at_all_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5,000 requests that share nothing each comes, grows to a family and goes by few looks."""
    looks = [0]
    place = Node.place.fget

    def counted(node: Node) -> tuple[int, int]:
        looks[0] += 1
        return place(node)

    monkeypatch.setattr(Node, "place", property(counted))
    tree: PrefixTree[int] = PrefixTree()
    leaves: list[Leaf[int]] = []
    most = 0

    def note() -> None:
        nonlocal most
        most, looks[0] = max(most, looks[0]), 0

    for i in range(7000):
        leaves.append(tree.add(i, chain([i % 5000, 7, i])))
        note()
    for leaf in leaves:
        tree.remove(leaf)
        note()
    assert most <= 12
