"""What measures is built, if nobody has."""

import os
import subprocess

import pytest

from tests.harness import BUILD, ROOT


@pytest.fixture(scope="session", autouse=True)
def built():
    folder = os.path.relpath(BUILD, ROOT)          # make cannot handle spaces, as above it
    missing = [f"{folder}/{name}" for name in ("load", "floor", "calls")
               if not (BUILD / name).exists()]
    if missing:
        subprocess.run(["make", f"BUILD={folder}", *missing], cwd=ROOT, check=True)
