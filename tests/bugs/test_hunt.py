"""make hunt: a bug that is not named, until it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.bugs.hunt import TOO_RARE, names
from tests.harness import DEADLINE, ROOT

pytestmark = pytest.mark.sources

# In place of a compiler and of the server that it makes.
STAND_IN = '#!/bin/sh\nprintf \'#!/bin/sh\\necho "$0 $*"\\n\' > server && chmod +x server\n'


@pytest.fixture
def hunt(tmp_path):
    if not shutil.which("git"):
        pytest.skip("patches are applied with git apply")
    compiler = tmp_path / "c++"
    compiler.write_text(STAND_IN)
    compiler.chmod(0o755)

    def run(*words: str, status: int = 0) -> str:
        done = subprocess.run([sys.executable, "-m", "tests.bugs.hunt", *words], cwd=ROOT,
                              env={**os.environ, "BUILD": str(tmp_path), "CXX": str(compiler)},
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=DEADLINE)
        assert done.returncode == status, done.stdout
        return done.stdout

    return run


def test_it_is_named_only_when_asked_for(hunt):
    assert "make hunt" in hunt("--reveal", status=2)
    seen = set()
    for seed in "1", "2", "3", "1":
        said = hunt("--seed", seed, "--", "-e", "7000")
        told = hunt("--reveal")
        name = told.split()[2]
        seen.add((seed, name))
        assert name in names() and "Mistake: " in told and "\n+++ b/" in told
        assert not any(each in said for each in (name, "Mistake"))
        assert said.splitlines()[-1].endswith("/bugs/hunted/server -e 7000")
        assert "PORT=7000 SERVICE=echo" in said and f"SEED={seed} " in said
    assert len(seen) == 3                  # the same seed, the same bug


def test_without_a_seed_it_is_any():
    assert TOO_RARE < {path.stem for path in (ROOT / "tests" / "bugs").glob("*.patch")}
    assert not TOO_RARE & set(names())


def test_the_ports_are_named(hunt):
    said = hunt("--seed", "1")
    stage = said.partition(" of stage ")[2][0]
    assert f"make try PORT=9{stage}01 SERVICE=echo STAGE={stage}" in said
