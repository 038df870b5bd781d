"""`--isa`, an option of every benchmark: a newer processor stands for an older one."""

from __future__ import annotations

import argparse
import os

from cifar_hpo import processor

MEANING = "AVX2, AVX512_CORE, …: the most that oneDNN may use; none leaves oneDNN off"


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--isa", help=MEANING)


def use(isa: str | None) -> str:
    """Set it for this process and those that it starts, before TensorFlow loads; returns its name.

    Raises SystemExit where this processor has not got it.
    """
    if isa == "none":
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    elif isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = isa
    return processor.instruction_set()


def by_default(isa: str | None) -> dict[str, str]:
    """TensorFlow's own switch on a processor of that instruction set: oneDNN from VNNI on."""
    return {"TF_ENABLE_ONEDNN_OPTS": "0"} if isa in ("none", "AVX2", "AVX512_CORE") else {}
