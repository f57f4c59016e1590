"""The tree of errors, as the module draws it."""

from __future__ import annotations

import re

from fanout import errors


def test_the_tree_is_the_one_that_is_drawn() -> None:
    assert errors.__doc__ is not None
    parents = ["FanoutError"]
    drawn = {}
    for line in errors.__doc__.splitlines():
        if match := re.match(r"    ([│ ]*)[├└]── (\w+)(?: \(also (\w+)\))?", line):
            depth = len(match[1]) // 4 + 1
            parents = [*parents[:depth], match[2]]
            drawn[match[2]] = [parents[depth - 1], *filter(None, [match[3]])]
    made = {
        name: [base.__name__ for base in kind.__bases__]
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.FanoutError) and kind is not errors.FanoutError
    }
    assert drawn == made


def test_an_error_has_a_report_only_of_a_stream() -> None:
    assert errors.Closed("x").report is None
