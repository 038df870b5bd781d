"""What the labels of images are: CLASSES, SEVERAL or NUMBERS."""

from __future__ import annotations

CLASSES = "classes"
"""Each image is of one class: labels (n,) of uint8 or, for more than 256 classes, uint16."""

SEVERAL = "several"
"""Each of k labels applies to an image or not: labels (n, k) of uint8, 0 or 1."""

NUMBERS = "numbers"
"""An image has a number to be predicted, or k of them: labels (n,) or (n, k) of float32."""

LABELS = {CLASSES: "classes", SEVERAL: "sets of classes", NUMBERS: "numbers"}
"""Each kind, and what messages call it."""
