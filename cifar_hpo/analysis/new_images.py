"""How far an accuracy may lie from that on all images of the kind, not only on these: limits over
seeds *and* test images.

Both are drawn at random: other seeds give other networks, and other test images other answers. This
is the interval of the bootstrap that draws seeds and images anew, each with all that it was crossed
with (Owen 2007), with its variance taken in closed form instead of from draws, and Student's t in
place of its quantiles, which three seeds make too narrow.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cifar_hpo.analysis.statistics import CONFIDENCE
from cifar_hpo.analysis.variances import Variance


def new_images_interval(correct: NDArray[np.bool_], variance: Variance) -> tuple[float, float]:
    """Limits of a configuration's accuracy at 95 %, on new images and with other seeds.

    correct: whether each replica recognised each test image, (seed, image), two images or more.
    variance: of the accuracy over seeds, of this configuration.
    """
    seeds, images = correct.shape
    accuracy = float(correct.mean())
    of_seeds = variance.value / seeds
    of_images = float(correct.mean(axis=0).var(ddof=1)) / images
    total = of_seeds + of_images
    if total == 0:
        return accuracy, accuracy
    # Satterthwaite's degrees of freedom: those of the seeds, where images add little.
    parts = of_seeds**2 / variance.degrees + of_images**2 / (images - 1)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, total**2 / parts)) * math.sqrt(total)
    return max(0.0, accuracy - reach), min(1.0, accuracy + reach)
