"""The soak, for ten seconds in all; `make soak` takes ten minutes."""

from tests.soak.soak import soak

SECONDS = 10


def test_soak(variant, seed):
    lines = []
    wrong = soak(variant, SECONDS / 8, seed, say=lines.append)
    assert not wrong, "\n".join(lines)
