"""Runs commands in this process, and says what a refusal is."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

import pytest

from vivavoce.agent.cli.app import main


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict]:
        """Standard output as JSON lines; anything else on it fails."""
        return [json.loads(line) for line in self.out.splitlines()]


def vivavoce(*arguments: object, typed: str | io.StringIO = "") -> Result:
    """Run a command in this process; what is `typed` may be a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["vivavoce", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.StringIO(typed) if isinstance(typed, str) else typed),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def refused(result: Result, *said: str, code: int = 1) -> None:
    """One sentence on stderr, nothing on stdout, and no traceback."""
    assert (result.code, result.out) == (code, ""), result
    assert "Traceback" not in result.err
    for part in said:
        assert part in " ".join(result.err.split()), result.err
    if code == 1:
        assert len(result.err.splitlines()) == 1, result.err
