"""selector.hpp by itself: the tests in selector/, each with each of the selectors."""

import importlib.util
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.harness import BUILD, DEADLINE, ROOT, SANITIZED

pytestmark = pytest.mark.sources

SOURCES = sorted((ROOT / "tests" / "checks" / "selector").glob("*.?pp"))
HEADER = ROOT / "06_selector_callbacks" / "selector.hpp"
PROGRAM = BUILD / "selector_test"
# Not vptr: that check opens a pipe, and a test leaves it no descriptor.
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize=vptr",
            "-fno-sanitize-recover=undefined"] * SANITIZED
NAMES = [name for path in SOURCES for name in re.findall(r'\btest\("(\w+)"', path.read_text())]

# The cases of CPython's own tests of `selectors` (Lib/test/test_selectors.py), and ours for them.
CPYTHON = {
    "test_register": "get_the_key_of_the_unknown register_for_no_events "
                     "register_a_negative_descriptor register_twice",
    "test_unregister": "unregister_the_unknown",
    "test_unregister_after_fd_close": "unregister_after_close",
    "test_unregister_after_fd_close_and_reuse": "unregister_after_close_and_reuse",
    "test_unregister_after_socket_close": "unregister_after_close",  # there are no objects here
    "test_modify": "readable_and_writable modify_to_the_same_events modify_the_unknown",
    # Theirs unregisters what it could not modify; ours leaves it as it was.
    "test_modify_unregister": "modify_a_closed_descriptor unregister_after_close_and_reuse",
    # A selector of ours ends with its scope, and has nothing to ask after that.
    "test_close": "it_leaves_nothing_behind",
    "test_context_manager": "it_leaves_nothing_behind",
    "test_fileno": "a_program_that_is_started_inherits_nothing",  # it is not handed out
    "test_get_key": "get_the_key_of_the_unknown",
    "test_get_map": "get_the_key_of_the_unknown nothing_registered",  # get_key() and size()
    "test_select": "no_time_limit",
    "test_select_read_write": "both_events_at_once",
    "test_selector": "pairs_talk_and_leave_in_any_order",
    "test_empty_select": "nothing_registered",
    "test_empty_select_timeout": "nothing_registered",
    "test_timeout": "time_limit a_negative_time_limit_is_not_waited_for",
    # A handler in C++ cannot throw. Theirs waits on after a signal; ours says that one came.
    "test_select_interrupt_exc": "a_signal_ends_a_wait_without_limit",
    "test_select_interrupt_noraise": "a_signal_ends_a_wait_with_a_limit",
    "test_above_fd_setsize": "more_descriptors_than_an_fd_set_holds a_descriptor_beyond_an_fd_set",
    "test_register_file": "a_regular_file",
    "test_register_bad_fd": "register_a_closed_descriptor",
}


@pytest.fixture(scope="module")
def program():
    """Built anew when it is older than what it is made of. All in one go: most of the time goes
    into the standard headers, and so they are read once."""
    newest = max(path.stat().st_mtime for path in (*SOURCES, HEADER))
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime <= newest:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        built = subprocess.run([*shlex.split(os.environ.get("CXX", "g++")), "-std=c++20", "-g1",
                                "-Wall", "-Wextra", *SANITIZE, "-o", str(PROGRAM), "-xc++", "-"],
                               input="".join(f'#include "{path}"\n' for path in SOURCES
                                             if path.suffix == ".cpp"),
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


def test_each_name_is_there_once():
    assert len(set(NAMES)) == len(NAMES)


def test_no_case_of_cpython_is_missing():
    assert {name for ours in CPYTHON.values() for name in ours.split()} - set(NAMES) == set()
    if not importlib.util.find_spec("test"):
        return  # some systems leave it out, or most of it
    theirs = importlib.util.find_spec("test.test_selectors")
    if theirs:
        cases = re.findall(r"^    def (test_\w+)", Path(theirs.origin).read_text(), re.M)
        assert set(cases) - set(CPYTHON) == set()
