"""How a program ends: one line and a true exit code for what the user can mend of a disk, a
traceback for a bug."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import clean, lay_out, no_space_beyond

from cifar_hpo.errors import disk_error, exit_with, has_no_space

WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
"""Root may write everywhere, but for this."""

needs_setpriv = pytest.mark.skipif(
    bool(WITHOUT_RIGHTS) and shutil.which("setpriv") is None,
    reason="root may write everywhere, and setpriv is not installed",
)


def line_of(error: OSError, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        exit_with(error)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_full_disk_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "error: no space left; make room, then the same command goes on\n"
    with no_space_beyond(1000), (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(bytes(1000))
        with pytest.raises(OSError, match="File too large") as by_python:
            file.write(b"x")
        with pytest.raises(OSError, match="requested and") as by_numpy:
            np.zeros(1000).tofile(file)
    for raised in (by_python.value, by_numpy.value):
        assert has_no_space(raised)
        assert line_of(raised, capsys) == said
    full = OSError(errno.ENOSPC, "No space left on device", "mlruns/x")
    assert line_of(full, capsys).startswith("error: no space left: mlruns/x; make room")


def test_a_path_that_can_t_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory") as raised:
        (tmp_path / "file" / "below").mkdir()
    said = line_of(raised.value, capsys)
    assert said == (
        f"error: not a directory: {tmp_path}/file/below; move it away, or choose another path\n"
    )


def test_any_other_error_of_the_system_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        (tmp_path / "none").read_text()
    assert disk_error(raised.value) is None
    with pytest.raises(FileNotFoundError):
        exit_with(raised.value)


READ_ONLY = """
import sys
from cifar_hpo import studies
from cifar_hpo.report.__main__ import main as report
from cifar_hpo.study.storage import open_storage

def ended(main, *arguments):
    try:
        main(list(arguments))
    except SystemExit as end:
        return end.code

assert ended(studies.main, "list") is None
assert ended(studies.main, "export", "laid") is None
print(ended(report), ended(studies.main, "delete", "laid", "--yes"))
print(ended(studies.main, "--storage", "sqlite:///new.db", "list"))
try:
    open_storage("sqlite:///new.db")
except OSError as error:
    print(error.strerror)
"""


@needs_setpriv
def test_a_folder_that_is_read_only_can_be_read_and_is_told(tmp_path: Path) -> None:
    lay_out(tmp_path, [({"a": "1"}, [0.5]), ({"a": "2"}, [0.6])])
    folders = [tmp_path, tmp_path / "mlruns"]
    for folder in folders:
        folder.chmod(0o555)
    shown = subprocess.run(
        [*WITHOUT_RIGHTS, sys.executable, "-c", READ_ONLY],
        cwd=tmp_path,
        env=clean(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    for folder in folders:
        folder.chmod(0o755)
    assert shown.stdout.splitlines()[-3:] == ["2 2", "2", "Permission denied"], shown.stderr
    lines = shown.stderr.splitlines()
    assert lines[0].startswith("error: permission denied: mlruns/reports; give yourself the right")
    assert lines[1].startswith("error: Optuna's storage mlruns/studies.db can't be written; give")
    assert lines[2].startswith("error: new.db is not here; go to the folder")
    assert len(lines) == 3
