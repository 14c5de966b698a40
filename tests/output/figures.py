"""Figures as they are shown, in the terminal and on the pages alike."""

from __future__ import annotations

import math
from typing import Optional


def number(value: Optional[float]) -> str:
    """1,017 and 2.14 and 0.25; 1.2 million where nobody would count the digits; - for none."""
    if value is None or math.isnan(value):
        return "-"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.1f} million"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


def milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def span(seconds: float, step: float = 0.0) -> str:
    """A short time in a picture; step: from one tick to the next, where it stands at an axis."""
    if seconds >= 1 or step >= 0.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if not seconds or seconds >= 0.001 else "under 1 ms"
