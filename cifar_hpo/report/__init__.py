"""`python -m cifar_hpo.report`: the terminal's table, the page, its charts.

An app that says how its trial goes calls `cifar_hpo.report(…)`, which is `reporting.report`, though
this package has the same name: it can be called, too.
"""

from __future__ import annotations

import sys
from types import ModuleType


class _Callable(ModuleType):
    def __call__(self, epoch: int, epochs: int, value: float, **metrics: float) -> None:
        from cifar_hpo.reporting import report

        report(epoch, epochs, value, **metrics)


sys.modules[__name__].__class__ = _Callable
