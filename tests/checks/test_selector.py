"""selector.hpp by itself: selector_test.cpp, each of its tests with each of the selectors."""

import os
import re
import shlex
import subprocess

import pytest

from tests.harness import BUILD, DEADLINE, ROOT, SANITIZED

pytestmark = pytest.mark.sources

SOURCE = ROOT / "tests" / "checks" / "selector" / "selector_test.cpp"
HEADER = ROOT / "06_selector_callbacks" / "selector.hpp"
PROGRAM = BUILD / "selector_test"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"] * SANITIZED
NAMES = re.findall(r"^TEST\((\w+)\)", SOURCE.read_text(), re.M)


@pytest.fixture(scope="module")
def program():
    """Built anew when it is older than what it is made of."""
    newest = max(path.stat().st_mtime for path in (SOURCE, HEADER))
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime <= newest:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        built = subprocess.run([*shlex.split(os.environ.get("CXX", "g++")), "-std=c++20", "-g",
                                "-Wall", "-Wextra", *SANITIZE, "-o", str(PROGRAM), str(SOURCE)],
                               capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
    return PROGRAM


@pytest.mark.only("6")
@pytest.mark.parametrize("name", NAMES)
def test_selector(program, variant, name):
    ended = subprocess.run([str(program), variant.arguments[1], name], capture_output=True,
                           text=True, timeout=DEADLINE)
    if ended.returncode == 77:
        pytest.skip("cannot be tried here")
    assert (ended.returncode, ended.stderr) == (0, "")
