"""The traceback of an exception that a trial raised, as its user wants to read it:
`traceback_text`."""

from __future__ import annotations

import sys
import traceback

from cifar_hpo.paths import PACKAGE
from cifar_hpo.redaction import redacted

WRAPPERS = tuple(str(PACKAGE / name) for name in ("task.py", "tracked.py", "workers/leaving.py"))
"""What calls a task function and tells nothing of what went wrong in it."""

SENT_CODE = "<dynamic-code>"
"""What cloudpickle has for the file of a function that it sent here from the program's own file."""


def traceback_text(error: BaseException) -> str:
    """The traceback without passwords, from the task function on, with the program's lines where
    the function was sent to a worker."""
    written = traceback.TracebackException.from_exception(error)
    program = getattr(sys.modules["__main__"], "__file__", None) or SENT_CODE
    frames: list[traceback.FrameSummary] = []
    for frame in written.stack:
        if frame.filename in WRAPPERS:
            frames.clear()
        elif frame.filename == SENT_CODE:
            frames.append(traceback.FrameSummary(program, frame.lineno, frame.name))
        else:
            frames.append(frame)
    if frames:
        written.stack = traceback.StackSummary.from_list(frames)
    return redacted("".join(written.format()))
