"""What a scenario's observations are held against: values, or conditions such as at_least(3)."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from tests.harness.variants import SANITIZED, Variant



class Condition:
    """A value is right if the test holds; prints as its text."""

    def __init__(self, text: str, test: Callable[[Any], bool]) -> None:
        self.text, self.test = text, test

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, value: object) -> bool:
        try:
            return bool(self.test(value))
        except TypeError:
            return False

    __hash__ = None  # type: ignore[assignment]


def at_least(least: float) -> Condition:
    return Condition(f"at least {least:g}", lambda value: value >= least)


def at_most(most: float) -> Condition:
    return Condition(f"at most {most:g}", lambda value: value <= most)


def between(least: float, most: float) -> Condition:
    return Condition(f"{least:g} to {most:g}", lambda value: least <= value <= most)


def one_of(*values: Any) -> Condition:
    return Condition(" or ".join(map(repr, values)), lambda value: value in values)


def including(*wanted: Any) -> Condition:
    return Condition("including " + ", ".join(map(repr, wanted)),
                     lambda value: all(each in value for each in wanted))


def differences(observed: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """One line for whatever is not as expected; what nobody expects is a difference, too."""
    lines = []
    for key in [*expected, *(key for key in observed if key not in expected)]:
        if key not in observed:
            lines.append(f"{key}: expected {expected[key]!r}, but it was not observed")
        elif key not in expected:
            lines.append(f"{key}: {observed[key]!r} was observed, but nobody expects it")
        elif not expected[key] == observed[key]:
            lines.append(f"{key}: expected {expected[key]!r}, observed {observed[key]!r}")
    return lines


def none_but(*values: str) -> Condition:
    return Condition("none but " + ", ".join(values), lambda found: set(found) <= set(values))


anything = Condition("anything", lambda value: True)         # told, not judged
# A sanitizer keeps for a while what was freed.
memory_grew = anything if SANITIZED else False

# Which stages: words as for Variant.matches.
EPOLL = "5 6-epoll"
SELECT = "3 6-select"                          # those that are bound to FD_SETSIZE


def for_variant(rows: Mapping[str, dict[str, Any]], variant: Variant) -> dict[str, Any]:
    """A scenario's `expect` as it reads for that variant: "all", then what is otherwise there."""
    merged = dict(rows.get("all", {}))
    for which, values in rows.items():
        if which != "all" and variant.matches(which):
            merged.update(values)
    return merged
