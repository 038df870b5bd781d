"""The worker's door: what it says of the machine before a trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_hpo.objective import _is_fast_in_bfloat16


@pytest.mark.parametrize(
    ("cpuinfo", "is_fast"),
    [
        ("vendor_id : AuthenticAMD\nflags : avx512f avx512_bf16", True),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16 amx_bf16", True),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16", False),
        ("vendor_id : GenuineIntel\nflags : avx512f", False),
        ("Features : asimd bf16", True),
        ("Features : asimd", False),
    ],
)
def test_bfloat16_is_warned_of_where_it_gains_nothing(tmp_path: Path, cpuinfo: str, is_fast: bool) -> None:
    (listed := tmp_path / "cpuinfo").write_text(cpuinfo)
    assert _is_fast_in_bfloat16(listed) is is_fast
