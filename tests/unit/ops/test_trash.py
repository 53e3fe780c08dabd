"""Deferred removal where the node has no process to spare for a moment."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vz.ops import trash


@pytest.mark.parametrize(("failures", "left"), [(1, 0), (2, 0), (3, 1)])
def test_rm_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, left: int
) -> None:
    spawn, tried = os.posix_spawn, []

    def fails_at_first(*words: object) -> int:
        tried.append(words)
        if len(tried) <= failures:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return spawn(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(trash, "RETRIES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(os, "posix_spawn", fails_at_first)
    (tmp_path / f"{trash.PREFIX}0123/deep").mkdir(parents=True)
    trash._delete_all(str(tmp_path))
    assert len(list(tmp_path.glob(f"{trash.PREFIX}*"))) == left
