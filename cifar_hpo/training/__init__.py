"""Training a CNN with Keras: `trainer` runs a trial, `compiled` an epoch in one graph, `replicas`
several seeds at once.

Every module here but `identity` loads TensorFlow, whose switches are set before, in this file.
"""

from __future__ import annotations

from cifar_hpo.processor import set_tensorflow_switches

set_tensorflow_switches()
