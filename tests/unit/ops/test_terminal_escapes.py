"""console: where ESC is an escape, and where it is what was typed."""

from __future__ import annotations

import pytest

from vz.ops.terminal import DETACHED, SAK, Operator

# what is read, chunk by chunk: what is passed on, and how it ends
TYPED = [
    ([b"\x1b."], b"", DETACHED),
    ([b"\x1b!"], b"", SAK),
    ([b"\x1b", b"."], b"", DETACHED),
    ([b"ls\r", b"\x1b."], b"ls\r", DETACHED),
    ([b"ls\r\x1b."], b"ls\r", DETACHED),
    ([b"ls\n\x1b!rest"], b"ls\n", SAK),
    ([b"ls\r\x1b", b"."], b"ls\r", DETACHED),
    ([b"ls\x1b.", b"\x1b."], b"ls\x1b.\x1b.", ""),  # not at the start of a line
    ([b"x", b"\x1b."], b"x\x1b.", ""),
    ([b"\x1b[A"], b"\x1b[A", ""),  # an arrow key
    ([b"\x1b", b"[A\r", b"\x1b."], b"\x1b[A\r", DETACHED),
    ([b"a\r\x1bx\r\x1b."], b"a\r\x1bx\r", DETACHED),
    ([b"\x1b\x1b."], b"\x1b\x1b.", ""),
]


@pytest.mark.parametrize(("chunks", "passed", "ending"), TYPED)
def test_escapes(chunks: list[bytes], passed: bytes, ending: str) -> None:
    operator = Operator()
    seen, found = b"", ""
    for chunk in chunks:
        more, found = operator._scan(chunk)
        seen += more
        if more:
            operator._line_start = more[-1:] in (b"\r", b"\n")
        if found:
            break
    assert (seen, found) == (passed, ending)
