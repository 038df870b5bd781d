"""The traceback of an exception that a trial raised, as its user reads it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from omegaconf import DictConfig, OmegaConf

from cifar_hpo.task import WrappedTask
from cifar_hpo.tracebacks import traceback_text

PROGRAM = "\n\ndef task(config):\n    raise RuntimeError('postgresql://me:SECRET@host/db')\n"


class Wrapped(WrappedTask):
    def around(self, config: DictConfig, run: Any) -> Any:
        return run()


def test_it_has_the_program_s_lines_and_neither_wrappers_nor_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(PROGRAM, str(program), "exec"), names)
    sent = cloudpickle.loads(cloudpickle.dumps(names["task"]))
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(program), raising=False)
    config = OmegaConf.create({})
    assert isinstance(config, DictConfig)
    with pytest.raises(RuntimeError) as raised:
        Wrapped(sent).run(config, None)
    text = traceback_text(raised.value)
    assert f'File "{program}", line 4, in task\n    raise RuntimeError(' in text
    assert "cifar_hpo/task.py" not in text
    assert text.endswith("RuntimeError: postgresql://me:***@host/db\n")
