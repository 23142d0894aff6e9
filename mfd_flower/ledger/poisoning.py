"""The poisoning test: whether an arriving version is fit to be trained on.

Signatures say who made a version; this says whether the update helped. The receiver compares the
version with its parent on its own samples, by loss and error rate (Fang et al. 2020, arXiv
1911.11815), and the update with those accepted before, by norm (Sun et al. 2019,
1911.07963) and direction (Cao et al. 2021, 2012.13995): a walk has no majority to ask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, wilcoxon

from mfd_flower.checks import bounded
from mfd_flower.ledger.history import History, Update

CLASS_SHARE = 0.05
"""Share of an author's samples from which a class counts as one that it trains on."""
LOSS_FLOOR = 1e-3
"""Nats added to a loss before its logarithm, so that no difference is seen among tiny losses."""
MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, for normal values."""


@dataclass(frozen=True)
class Admission:
    """How strict a receiver is."""

    false_refusal: float = bounded(0.001, 0.0, 0.5, open_low=True)
    """Level of the loss test and of the accuracy test, each: the share of versions refused that are
    neither better nor worse than their parents."""
    norm_mads: float = bounded(4.0, 0.0, open_low=True)
    """Robust standard deviations that the log of an update's norm may lie above the median of
    accepted ones."""
    norm_ratio: float = bounded(1.3, 1.0, open_low=True)
    """Times the median norm that is always allowed, however alike the accepted ones are."""
    least_cosine: float = bounded(-0.5, -1.0, 1.0)
    """Least cosine to the running direction; -1 admits all. Honest updates are nearly orthogonal to
    each other: it is a return to an old version that points back."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One version on the receiver's own samples, in the same order as any other."""

    losses: NDArray[np.floating[Any]]
    """Cross-entropy of each sample in nats, ``(n,)``."""
    correct: NDArray[np.bool_]
    """Whether each was classified right, ``(n,)``."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a receiver knows of an arriving version."""

    arrived: Measured
    parent: Measured
    update: Update
    """From parent to arriving version."""


@dataclass(frozen=True)
class Verdict:
    """Whether a version is admitted."""

    accepted: bool
    reason: str = ""
    """Empty, or what it was refused for: ``not-finite``, ``unchanged``, ``loss``, ``accuracy``,
    ``norm`` or ``direction``."""
    measured: float = 0.0
    """The statistic that was refused: standard errors (``loss``), a probability (``accuracy``),
    times the median (``norm``), a cosine (``direction``)."""
    limit: float = 0.0
    """The bound that it crossed."""


def judge(evidence: Evidence, history: History, admission: Admission) -> Verdict:
    """Admit a version, or say what speaks against it.

    The loss is compared by the signed-rank test (Wilcoxon 1945) on the logs of both versions' loss
    on each sample: a version that is worse on most samples is found although its mean loss, which
    a few samples decide, has not moved. The accuracy is compared by the exact sign test on the
    samples that only one version gets right (McNemar 1947). Few samples let more poison in, but
    refuse no more honest versions. `history` is that of the accepted updates: call `History.after`
    if this one is accepted and no other time.
    """
    arrived, parent, update = evidence.arrived, evidence.parent, evidence.update
    if not np.isfinite([*arrived.losses, update.norm]).all():
        return Verdict(False, "not-finite", math.nan, math.inf)
    if update.norm == 0:
        return Verdict(False, "unchanged")
    if history.log_norms:
        times, limit = _norm_against(history, update, admission)
        if times > limit:
            return Verdict(False, "norm", times, limit)
        cosine = history.cosine(update)
        if cosine < admission.least_cosine:
            return Verdict(False, "direction", cosine, admission.least_cosine)
    return compare(arrived, parent, admission)


def compare(arrived: Measured, parent: Measured, admission: Admission) -> Verdict:
    """Admit a version that is no worse than its parent on the receiver's samples."""
    score = signed_rank_score(_log_ratios(arrived, parent))
    limit = NormalDist().inv_cdf(1 - admission.false_refusal)
    if score > limit:
        return Verdict(False, "loss", score, limit)
    # How likely so few right answers are if the version is no worse than its parent.
    lost = int((parent.correct & ~arrived.correct).sum())
    won = int((arrived.correct & ~parent.correct).sum())
    chance = float(binom.sf(lost - 1, lost + won, 0.5))
    if chance < admission.false_refusal:
        return Verdict(False, "accuracy", chance, admission.false_refusal)
    return Verdict(True)


def comparable(labels: NDArray[np.int64], author_counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which of the receiver's samples an honest update should not have made worse, ``(n,)``.

    Training on some classes makes others worse for a while, so only classes count that the author
    holds a share of. It must have said so before, in an advert: free to choose, it would name
    classes that the receiver lacks. `labels` are those of the receiver's samples, ``(n,)``,
    `author_counts` the author's samples of each class, ``(num_classes,)``.
    """
    return author_counts[labels] >= CLASS_SHARE * author_counts.sum()


def signed_rank_score(differences: NDArray[np.floating[Any]]) -> float:
    """Return Wilcoxon's signed-rank statistic in standard errors, from below 0 to above.

    Of paired differences ``(n,)``; zeros are left out, ties share their mean rank.
    """
    if not differences.any():
        return 0.0
    told = {"alternative": "greater", "method": "asymptotic"}
    return float(wilcoxon(differences, **told).zstatistic)


def _log_ratios(arrived: Measured, parent: Measured) -> NDArray[np.floating[Any]]:
    # A parent that is not finite is no reason to refuse: any finite loss is below its.
    before = np.nan_to_num(parent.losses, nan=np.inf, posinf=np.inf)
    return np.log(arrived.losses + LOSS_FLOOR) - np.log(before + LOSS_FLOOR)


def _norm_against(history: History, update: Update, admission: Admission) -> tuple[float, float]:
    """Return the update's norm over the median of accepted ones, and the most that may be."""
    past = np.asarray(history.log_norms)
    median = float(np.median(past))
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(past - median)))
    most = max(admission.norm_mads * sigma, math.log(admission.norm_ratio))
    # The median of a few is itself uncertain: one update allows three times as much as many do.
    most *= 1 + 2 / len(past)
    return math.exp(math.log(update.norm) - median), math.exp(most)
