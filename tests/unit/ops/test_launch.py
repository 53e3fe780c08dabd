"""Which of two failures is the cause: the CT's side has died, and the parent stumbles over that."""

from __future__ import annotations

import os

import pytest

from vz.errors import VzError
from vz.ops.launch import Launch


def born(words: bytes) -> tuple[Launch, int]:
    errors, error_end = os.pipe()
    go = os.open("/dev/null", os.O_WRONLY)
    if words:
        os.write(error_end, words)
        os.close(error_end)
    return Launch(1, go, errors, "/sbin/init"), error_end


def test_an_init_that_has_failed_is_the_cause() -> None:
    launch, _ = born(b"47 Unable to run /sbin/init: there is no such program in the container")
    with pytest.raises(VzError, match="no such program") as caught:
        launch.check()
    assert caught.value.code == 47
    launch.abandon()


def test_an_init_that_lives_is_not_waited_for() -> None:
    launch, error_end = born(b"")
    launch.check()
    launch.abandon()
    os.close(error_end)
