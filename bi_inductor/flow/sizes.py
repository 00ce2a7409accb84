"""Sizes that are spelled in several ways, and equal in every call that a graph's guards admit.

torch writes down how it computed a size: ``h // (h // 4)`` for the 4 that a view asked for, a quotient of two
products for its -1. Left alone, such sizes nest, name the batch where it has long been divided out, and no two
of them compare equal.
"""

import sympy
import torch

from bi_inductor._torch import FloorDiv
from bi_inductor.flow.axes import Extent, expanded, extent_of, quotient


class Sizes:
    """The equalities that the views of a graph have proved so far.

    ``of`` writes a size in the shortest way that they allow. Two kinds are kept: sizes that are the same
    (``learn``), and products that hold the same elements (``learn_product``).
    """

    def __init__(self) -> None:
        self._shorter: dict[Extent, Extent] = {}
        self._products: dict[tuple[Extent, Extent], None] = {}
        self._known: dict[sympy.Basic, Extent] = {}

    def of(self, size: object) -> Extent:
        """Return the shortest spelling of a size: an int, a SymInt or an expression."""
        extent = extent_of(size) if isinstance(size, (int, torch.SymInt)) else size
        return extent if isinstance(extent, int) else self._spelled(extent)

    def shape(self, fake: torch.Tensor) -> tuple[Extent, ...]:
        """Return the extents of a fake tensor."""
        return tuple(self.of(size) for size in fake.shape)

    def learn(self, a: object, b: object) -> Extent:
        """Note that two sizes are the same in every call; return the shorter of their spellings."""
        one, other = self.of(a), self.of(b)
        if one == other:
            return one
        short, long = sorted((one, other), key=_length)
        self._shorter[long] = short
        self._known.clear()
        return short

    def learn_product(self, a: Extent, b: Extent) -> None:
        """Note that two products are the same in every call: the elements of a tensor and of a view of it."""
        if a != b and not isinstance(a, int) and not isinstance(b, int):
            self._products[_without_common_factors(a, b)] = None

    def divided(self, whole: Extent, part: Extent) -> Extent | None:
        """Return ``n`` with ``n * part == whole`` for a ``part`` that is not zero; None if no proof is found.

        Factors of ``part`` may be exchanged for an equal product. ``whole / part`` is divided out only afterwards, so
        that it does not matter whether the exchanged factors can be zero.
        """
        found = quotient(whole, part)
        for a, b in self._products:
            for old, new in ((a, b), (b, a)):
                if found is None and (rest := quotient(part, old)) is not None:
                    found = quotient(whole, sympy.expand(rest * new))
        return None if found is None else self.of(found)

    def _spelled(self, expr: sympy.Basic) -> Extent:
        if expr not in self._known:
            # should equalities lead round in a circle, any of its spellings will do
            self._known[expr] = expr
            self._known[expr] = self._spelled_anew(expr)
        return self._known[expr]

    def _spelled_anew(self, expr: sympy.Basic) -> Extent:
        args = [self._spelled(arg) for arg in expr.args]
        made: Extent = expr if args == list(expr.args) else expr.func(*args)
        if isinstance(made, FloorDiv) and (whole := quotient(*made.args)) is not None:
            made = whole
        if isinstance(made, sympy.Expr):
            made = expanded(made)
        shorter = self._shorter.get(made)
        return made if shorter is None else self.of(shorter)


def _length(extent: Extent) -> tuple[int, str]:
    return (-1 if isinstance(extent, int) else sympy.count_ops(extent), str(extent))


def _without_common_factors(a: sympy.Expr, b: sympy.Expr) -> tuple[Extent, Extent]:
    """Divide numbers and symbols out of both sides, but nothing that could be zero."""
    numbers = [side.as_content_primitive()[0] for side in (a, b)]
    # torch halves a size that it knows to be even: there are fractions among the numbers
    number = sympy.igcd(*numbers) if all(n.is_Integer for n in numbers) else sympy.S.One
    symbols = sorted(a.free_symbols & b.free_symbols, key=str)
    for factor in (*([number] if number > 1 else []), *(s for s in symbols if s.is_positive)):
        while (x := quotient(a, factor)) is not None and (y := quotient(b, factor)) is not None:
            a, b = x, y
    return a, b
