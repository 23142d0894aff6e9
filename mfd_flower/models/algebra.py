"""What whole numbers must satisfy to be the sums over samples, whoever says so.

Of samples x of whole numbers, ``|x_i| <= L``, in classes of ``n_c`` with sums ``q_c``, and
``G = sum x x^T`` over all n of them: each line of `FACTS` holds for any samples at all. So honest
sums are never at fault, and what is not at fault could be the sums of somebody's samples: of wrong
labels, or of other images, algebra knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mfd_flower.models.rounded import Rounding
from mfd_flower.models.sums import Sums

EPSILON = float(np.finfo(float).eps)


def difference(total: Sums, parent: Sums) -> Sums:
    """Return what was added to `parent`, of which nothing is known: even counts may be negative."""
    return Sums(total.gram - parent.gram, total.cross - parent.cross)


def fault(added: Sums, rounding: Rounding) -> str:
    """Return in one line why no samples have such sums, or nothing; the first of `FACTS`.

    Parameters
    ----------
    added : Sums
        What is to be judged, of ``d`` features.
    rounding : Rounding
        How features become whole numbers, and so how large they may be.
    """
    return next((said for fact in FACTS if (said := fact(added, rounding))), "")


def _counts(added: Sums, rounding: Rounding) -> str:
    """Count no class with fewer than no samples, nor sums of one without."""
    counts, firsts = added.counts, added.cross[:-1]
    if (counts < 0).any():
        label = int(counts.argmin())
        return f"counts: {counts[label]} samples of class {label}"
    if (empty := firsts[:, counts == 0]).any():
        return f"counts: a class without samples has sums up to {np.abs(empty).max()}"
    return ""


def _bounds(added: Sums, rounding: Rounding) -> str:
    """Bound ``|q_ic| <= n_c L``, ``g_ii <= n L^2`` and the trace by n times the longest x."""
    # In float64, where products of numbers that somebody made up do not overflow.
    counts, firsts, squares = added.counts.astype(float), added.cross[:-1], _squares(added)
    most = float(rounding.largest)
    if (np.abs(firsts) > counts * most).any():
        place, label = np.unravel_index((np.abs(firsts) - counts * most).argmax(), firsts.shape)
        said = f"{counts[label]:.0f} samples of class {label}, of at most {most:.0f} each"
        return f"bounds: feature {place} adds up to {firsts[place, label]} over {said}"
    if (squares > added.samples * most**2).any():
        said = f"{added.samples} samples of at most {most:.0f} each"
        return f"bounds: squares of a feature add up to {squares.max()} over {said}"
    longest = rounding.longest(len(squares))
    if squares.sum() > added.samples * longest**2 * (1 + len(squares) * EPSILON):
        said = f"{added.samples} samples of at most {longest:.6g}"
        return f"bounds: squared lengths add up to {squares.sum()} over {said}"
    return ""


def _whole_numbers(added: Sums, rounding: Rounding) -> str:
    """Hold sums to what each whole number is: at most its square, and odd where that is."""
    firsts, squares = added.cross[:-1], _squares(added)
    if (short := squares < np.abs(firsts).sum(1)).any():
        place = int(short.argmax())
        said = f"sums over classes to {np.abs(firsts[place]).sum()}"
        return f"whole numbers: squares of feature {place} add up to {squares[place]}, {said}"
    if (odd := (squares - firsts.sum(1)) % 2 != 0).any():
        place = int(odd.argmax())
        return f"whole numbers: feature {place} and its squares add up to an even and an odd number"
    return ""


def _products(added: Sums, rounding: Rounding) -> str:
    """Bound ``g_ij^2 <= g_ii g_jj`` (Cauchy and Schwarz)."""
    inner = added.gram[:-1, :-1].astype(float)
    squares = np.diagonal(inner)
    # Four roundings, each by half of EPSILON at most.
    over = inner**2 > np.multiply.outer(squares, squares) * (1 + 2 * EPSILON)
    if over.any():
        one, other = np.argwhere(over)[0]
        said = f"squares to {squares[one]:.0f} and {squares[other]:.0f}"
        return f"products: features {one} and {other} multiply to {inner[one, other]:.0f}, {said}"
    return ""


def _scatter(added: Sums, rounding: Rounding) -> str:
    """Refuse a scatter around class means with a negative eigenvalue, or of too high a rank.

    ``S = G - sum_c q_c q_c^T / n_c`` is a sum of ``(x - m_c)(x - m_c)^T``, of which each class has
    ``n_c`` that add up to nothing: its rank is at most n less the classes there are. See
    `rounding_of` for how far from 0 rounding may carry an eigenvalue.
    """
    present = added.counts > 0
    inner = added.gram[:-1, :-1].astype(float)
    scatter, slack = inner.copy(), rounding_of(added)
    for column in added.cross.T[present].astype(float):
        scatter -= np.multiply.outer(column[:-1], column[:-1]) / column[-1]
    values = np.linalg.eigvalsh(scatter)
    if values[0] < -slack:
        return f"scatter: an eigenvalue of {values[0]:.4g}, rounding explains {-slack:.1g}"
    rank, most = int((values > slack).sum()), added.samples - int(present.sum())
    if rank > most:
        said = f"{added.samples} samples of {int(present.sum())} classes have {most} at most"
        return f"rank: the scatter has {rank} directions, {said}"
    return ""


def rounding_of(added: Sums) -> float:
    """Return by how much an eigenvalue of the scatter may be off in float64.

    With unit roundoff ``u = EPSILON / 2``, each of C classes costs a product, a quotient and a
    difference: entry ij is off by at most ``(C + 2) u (|g_ij| + sum_c |q_ic q_jc| / n_c)`` to first
    order (Higham 2002, *Accuracy and Stability*, section 3.1), which for sums of samples is below
    ``2 (C + 2) u sqrt(g_ii g_jj)``. Entries so bounded have a norm of at most ``2 (C + 2) u tr G``,
    which eigenvalues move by at most (Weyl). The solver adds ``p(d) u |S|``, where p is taken as
    ``4 d`` and ``|S| <= tr G`` (Anderson et al. 1999, *LAPACK Users' Guide*, section 4.7).
    """
    classes, squares = added.cross.shape[1], _squares(added)
    return float((2 * (classes + 2) + 4 * len(squares)) * EPSILON / 2 * squares.sum())


def _squares(added: Sums) -> NDArray[np.int64]:
    return np.diagonal(added.gram)[:-1]


FACTS: tuple[Callable[[Sums, Rounding], str], ...] = (
    _counts,
    _bounds,
    _whole_numbers,
    _products,
    _scatter,
)
"""What is compared, in this order."""
