"""`dlm-sampling eval` passes its words on to `dlm_eval`, options and --help included."""

from __future__ import annotations

from tests.cli.process import Command, assert_one_line


def test_help_is_that_of_the_evaluation(command: Command) -> None:
    result = command("eval", "--help")
    assert result.code == 0
    assert "Usage: dlm-sampling eval" in result.out
    assert "COMMAND" in result.out


def test_an_unknown_command_is_one_line(command: Command) -> None:
    assert_one_line(command("eval", "nonsense"), 2, "nonsense")
