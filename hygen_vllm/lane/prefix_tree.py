# SPDX-License-Identifier: Apache-2.0
"""PrefixTree: requests by the prefixes they share. Pure.

The prefix of a request is the sequence of its chained block hashes: one hash stands for its block
and all before it, so two requests with equal hashes at a place share everything up to there (vLLM:
tokens, LoRA adapter, cache salt, multimodal items). The tree is a radix tree over such sequences:
an inner node is a stretch of blocks that at least two requests share, a leaf is one request and the
blocks it shares with nobody. Edges refer to the hashes of a request that passes, they copy nothing.

Where a hash matches, all before it match; so an edge is compared by bisection, and adding, removing
and looking up take O(nodes on the path + log blocks) hash comparisons, whatever the tree holds.

Of the children of a node the one that saves most is visited first: the more blocks its requests
share among themselves, the more waits to be used once it is computed. Savings are compared by their
order of magnitude, and among equals the oldest comes first.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar, cast

from sortedcontainers import SortedList

T = TypeVar("T")
Hashes = Sequence[Hashable]


class Node:
    """A stretch of blocks [start, end) of `hashes`, and what lies below it.

    `saved_blocks` is what its requests save if they are served together and the path to it is
    cached: the sum over itself and all nodes below of (leaves - 1) * (end - start).
    """

    __slots__ = ("end", "hashes", "num_leaves", "number", "parent", "saved_blocks", "start")

    def __init__(self, hashes: Hashes, start: int, end: int, number: int) -> None:
        self.parent: Branch | None = None
        self.hashes = hashes
        self.start = start
        self.end = end
        self.number = number
        """Unique; nodes made later have higher ones."""
        self.num_leaves = 1
        self.saved_blocks = 0

    @property
    def key(self) -> Hashable:
        """The name under which its parent knows it; a leaf without blocks of its own is its own."""
        return self.hashes[self.start] if self.start < self.end else self

    @property
    def place(self) -> tuple[int, int]:
        """Its place among its siblings: by the order of magnitude of what it saves, then by age."""
        return -self.saved_blocks.bit_length(), self.number

    @property
    def state(self) -> tuple[int, int, int, int]:
        """What to print of it."""
        return self.start, self.end, self.num_leaves, self.saved_blocks


class Leaf(Node, Generic[T]):
    """A request in the tree; a handle for `PrefixTree.remove`."""

    __slots__ = ("item",)

    def __init__(self, item: T, hashes: Hashes, start: int, number: int) -> None:
        super().__init__(hashes, start, len(hashes), number)
        self.item = item


class Branch(Node):
    """Blocks that at least two requests share, or the root."""

    __slots__ = ("children", "in_order")

    def __init__(self, hashes: Hashes, start: int, end: int, number: int) -> None:
        super().__init__(hashes, start, end, number)
        self.children: dict[Hashable, Node] = {}
        self.in_order: SortedList[tuple[tuple[int, int], Node]] = SortedList()
        """(place, child)."""

    def attach(self, child: Node) -> None:
        """Add a child of another parent or of none."""
        child.parent = self
        self.children[child.key] = child
        self.in_order.add((child.place, child))

    def detach(self, child: Node) -> None:
        """Remove a child."""
        del self.children[child.key]
        self.in_order.remove((child.place, child))
        child.parent = None

    def first(self) -> Node:
        """Return the child that is visited first. O(1)."""
        child: Node = self.in_order[0][1]
        return child


class PrefixTree(Generic[T]):
    """See the module docstring. Adding: `add`, `remove`. Looking up: `match`, `first`."""

    def __init__(self) -> None:
        self.root = Branch((), 0, 0, 0)
        self.root.num_leaves = 0
        self._last_number = 0

    def __len__(self) -> int:
        return self.root.num_leaves

    def __iter__(self) -> Iterator[Leaf[T]]:
        """Yield all leaves, depth first. Takes O(leaves)."""
        nodes: list[Node] = [self.root]
        while nodes:
            node = nodes.pop()
            if isinstance(node, Branch):
                nodes.extend(reversed(node.children.values()))
            else:
                yield cast("Leaf[T]", node)

    def add(self, item: T, hashes: Hashes) -> Leaf[T]:
        """Add a request; return its leaf. `hashes` may grow later, but not change.

        Complexity: O(nodes on the path + log blocks); a place that changes costs O(log siblings).
        """
        node, depth = self.match(hashes)
        if not isinstance(node, Branch) or depth < node.end:
            node = self._split(node, depth)
        leaf = Leaf(item, hashes, depth, self._next_number())
        node.attach(leaf)
        self._count(node, 1)
        return leaf

    def remove(self, leaf: Leaf[T]) -> None:
        """Remove a request that is in the tree. Complexity: as `add`."""
        branch = leaf.parent
        assert branch is not None, leaf.state
        branch.detach(leaf)
        self._count(branch, -1)
        if branch.parent is not None and len(branch.children) == 1:
            self._merge(branch)

    def match(self, hashes: Hashes) -> tuple[Node, int]:
        """Return the deepest node that a prefix reaches into, and how many blocks of it match.

        Every request below the node shares them. Does not change the tree.
        Complexity: O(nodes on the path + log blocks).
        """
        node: Node = self.root
        length = len(hashes)
        while isinstance(node, Branch) and node.end < length:
            child = node.children.get(hashes[node.end])
            if child is None:
                break
            most = min(child.end, length)
            depth = num_common(hashes, child.hashes, child.start + 1, most)
            if depth < child.end:
                return child, depth
            node = child
        return node, node.end

    def first(self, node: Node) -> Leaf[T]:
        """Return the request below a node that is visited first; the tree must not be empty.

        Complexity: O(nodes on the way down).
        """
        while isinstance(node, Branch):
            node = node.first()
        return cast("Leaf[T]", node)

    def check_invariants(self) -> None:
        """Raise AssertionError if the tree does not add up. Takes O(nodes * children)."""
        assert self.root.start == self.root.end == 0, self.root.state
        nodes: list[Node] = [self.root]
        while nodes:
            node = nodes.pop()
            assert 0 <= node.start <= node.end <= len(node.hashes), node.state
            if isinstance(node, Branch):
                self._check(node)
                nodes.extend(node.children.values())
            else:
                assert (node.num_leaves, node.saved_blocks) == (1, 0), node.state

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _split(self, node: Node, depth: int) -> Branch:
        """Put a new branch of the blocks up to `depth` above a node; return it."""
        parent = node.parent
        assert parent is not None, node.state
        branch = Branch(node.hashes, node.start, depth, self._next_number())
        branch.num_leaves, branch.saved_blocks = node.num_leaves, node.saved_blocks
        parent.detach(node)
        node.saved_blocks -= (node.num_leaves - 1) * (depth - node.start)
        node.start = depth
        parent.attach(branch)
        branch.attach(node)
        return branch

    @staticmethod
    def _merge(branch: Branch) -> None:
        """Let the only child of a branch take its place."""
        (child,) = branch.children.values()
        parent = branch.parent
        assert parent is not None, branch.state
        parent.detach(branch)
        child.start, child.saved_blocks = branch.start, branch.saved_blocks
        parent.attach(child)

    def _count(self, branch: Branch, leaves: int) -> None:
        """Count a leaf that came to a branch, or went from it (-1), there and above."""
        saved, above = 0, branch
        while above.parent is not None:
            saved += leaves * (above.end - above.start)
            parent, place = above.parent, above.place
            above.num_leaves += leaves
            above.saved_blocks += saved
            if above.place != place:
                parent.in_order.remove((place, above))
                parent.in_order.add((above.place, above))
            above = parent
        above.num_leaves += leaves

    def _check(self, branch: Branch) -> None:
        children = branch.children.values()
        assert len(branch.in_order) == len(children), branch.state
        assert branch.num_leaves == sum(child.num_leaves for child in children), branch.state
        if branch is not self.root:
            assert branch.start < branch.end, branch.state
            assert len(children) > 1, branch.state
            saved = (branch.num_leaves - 1) * (branch.end - branch.start)
            saved += sum(child.saved_blocks for child in children)
            assert branch.saved_blocks == saved, branch.state
        for key, child in branch.children.items():
            where = branch.state, child.state
            assert child.parent is branch, where
            assert child.key == key, where
            assert child.start == branch.end, where
            assert [*child.hashes[: branch.end]] == [*branch.hashes[: branch.end]], where
            assert (child.place, child) in branch.in_order, where


def num_common(one: Hashes, other: Hashes, least: int, most: int) -> int:
    """Return how many leading hashes are equal, given that it is between `least` and `most`.

    Complexity: O(1) if it is `most`, else O(log(most - least)).
    """
    if most <= least or one[most - 1] == other[most - 1]:
        return max(least, most)
    low, high = least, most - 1  # equal below low, different at high
    while low < high:
        middle = (low + high) // 2
        if one[middle] == other[middle]:
            low = middle + 1
        else:
            high = middle
    return low
