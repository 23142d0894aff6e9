"""What a model is worth that has seen so many samples, where nobody trains it.

A stated curve stands for training: ``accuracy = best - scale * samples ** -power``, the form of
learning curves over the size of the training set (Hestness et al. 2017, *Deep learning scaling is
predictable, empirically*, section 2). It knows neither skew nor forgetting, so it speaks for sums,
which have neither, and is an upper bound for models that are trained along the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import curve_fit

from mfd_flower.checks import ConfigError, bounded, check_fields


@dataclass(frozen=True)
class PowerLaw:
    """A learning curve; the defaults are no measurement of anything, fit your own."""

    best: float = bounded(1.0, 0.0, 1.0)
    """Accuracy with samples without end."""
    scale: float = bounded(1.0, 0.0)
    power: float = bounded(0.5, 0.0, open_low=True)

    def __post_init__(self) -> None:
        check_fields(PowerLaw, self, ConfigError)

    def accuracy(self, samples: ArrayLike) -> NDArray[np.float64]:
        """Return the accuracy after so many unlike samples, never below 0; 0 after none."""
        seen = np.asarray(samples, np.float64)
        with np.errstate(divide="ignore"):
            return np.maximum(self.best - self.scale * seen**-self.power, 0.0)

    @classmethod
    def fit(cls, samples: ArrayLike, accuracies: ArrayLike) -> PowerLaw:
        """Return the curve that is nearest to measured points in the least squares sense.

        Three points or more; `ConfigError` with fewer.
        """
        x, y = np.asarray(samples, np.float64), np.asarray(accuracies, np.float64)
        if len(x) < 3 or x.shape != y.shape:
            raise ConfigError("samples", len(x), "three measured points or more")

        def curve(seen: NDArray[np.float64], best: float, scale: float, power: float) -> object:
            return best - scale * seen**-power

        start = (float(np.clip(y.max(), 0.0, 1.0)), 1.0, 0.5)
        limits = ([0.0, 0.0, 0.01], [1.0, np.inf, 5.0])
        (best, scale, power), _ = curve_fit(curve, x, y, p0=start, bounds=limits, maxfev=20_000)
        return cls(float(best), float(scale), float(power))
