"""Features seen in a few random directions that all nodes of a run have in common.

No data decide them, so that nothing has to be agreed on: signs are drawn from the run's seed
(Achlioptas 2003), and each feature vector is brought to mean 0 and variance 1 first.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mfd_flower.config import RunConfig
from mfd_flower.data.samples import Samples
from mfd_flower.models.rounded import head_inputs
from mfd_flower.models.tuned import TunedModel
from mfd_flower.routing.sketch import DIRECTIONS

SKETCH = 5
"""Purpose of the generator that draws them."""


def directed(run: RunConfig, model: TunedModel, samples: Samples) -> NDArray[np.float64]:
    """Return what a model's head gets of samples, in `DIRECTIONS` directions, ``(n, k)``."""
    features = torch.from_numpy(head_inputs(run, model, samples)).double()
    dim = features.shape[1]
    signs = np.random.default_rng([run.seed, SKETCH]).integers(0, 2, (dim, DIRECTIONS)) * 2.0 - 1
    return F.layer_norm(features, (dim,)).numpy() @ (signs / np.sqrt(dim))
