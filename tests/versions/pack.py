"""Packs a folder in which an earlier version swept, so that later ones can be held against it.

    python tests/versions/pack.py FOLDER tests/versions/VERSION.zip

Databases are packed as their SQL, texts with marks in place of the folder and of the machine.
`tests/test_versions.py` unpacks them and says which commands made them.
"""

from __future__ import annotations

import re
import socket
import sqlite3
import sys
import zipfile
from pathlib import Path

FOLDER = "{the folder}"
HOST = "{the host}"
"""Stand in the pack where the folder's own path and the machine's name stood."""

DATABASES = ("mlflow.db", "mlruns/studies.db")
LEFT_OUT = re.compile(r"\.(lock|holder|log|npy|png)$|mlruns/data/|(conda|python_env)\.yaml$")


def pack(folder: Path, target: Path) -> None:
    """Write the zip file."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in DATABASES:
            with sqlite3.connect(folder / name) as database:
                archive.writestr(f"{name}.sql", anonymous("\n".join(database.iterdump()), folder))
        for path in sorted((folder / "mlruns").rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir() or LEFT_OUT.search(name) or name in DATABASES:
                continue
            try:
                archive.writestr(name, anonymous(path.read_text(encoding="utf-8"), folder))
            except UnicodeDecodeError:
                archive.write(path, name)


def anonymous(text: str, folder: Path) -> str:
    """With marks for this folder and this machine, and without where the package was installed."""
    text = text.replace(str(folder), FOLDER).replace(socket.gethostname(), HOST)
    text = re.sub(r"/[\w./-]+/(cifar_hpo|conf|sweeps|site-packages)\b", r"/installed/\1", text)
    return re.sub(r"(repoURL\W+)/[\w./-]+", r"\1/installed", text)


if __name__ == "__main__":
    pack(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
