"""How commands speak and end: exit codes, and values in words."""

from __future__ import annotations

import json

import click
import pytest

from fanout import errors
from fanout.cli.output import errors_as_json, exit_code, milliseconds, plural, print_json


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (click.UsageError("x"), 2),
        (errors.InvalidInput("x"), 2),
        (errors.MessageTooLarge("x"), 2),
        (errors.NoEndpoints("x"), 3),
        (errors.ResolverUnavailable("x"), 1),
        (errors.SocketUnavailable("x"), 1),
        (RuntimeError("x"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize("error", [errors.NoEndpoints("no pod"), click.UsageError("what?")])
def test_an_error_is_an_object_where_json_is_asked_for_and_still_ends_the_command(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    for output in ("text", "json"):
        with pytest.raises(type(error)), errors_as_json(output, service="pods"):
            raise error
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"service": "pods", "error": str(error), "exit_code": exit_code(error)}


def test_what_is_no_json_is_not_printed() -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"rate": float("nan")})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0.00"), (0.00123, "1.23"), (0.0123, "12.3"), (0.1, "100"), (0.1239, "124")],
)
def test_milliseconds_have_three_digits_that_count(seconds: float | None, text: str) -> None:
    assert milliseconds(seconds) == text


def test_one_pod_and_two_pods() -> None:
    assert [plural(count, "pod") for count in (0, 1, 2)] == ["0 pods", "1 pod", "2 pods"]
