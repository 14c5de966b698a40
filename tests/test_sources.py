"""The folders themselves: alike where they have to be, and each complete in itself."""

import difflib
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import FOLDERS, ROOT, Client, Server, Variant, run_program

pytestmark = pytest.mark.sources

SHARED = ("program.hpp", "service.hpp", "socket.hpp")
STAGES = pytest.mark.parametrize("folder", FOLDERS)


@pytest.mark.parametrize("header", SHARED)
@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_what_does_not_differ_is_the_same_file(folder, header):
    one, other = ROOT / FOLDERS[0] / header, ROOT / folder / header
    if one.read_bytes() != other.read_bytes():
        drift = difflib.unified_diff(one.read_text().splitlines(), other.read_text().splitlines(),
                                     f"{FOLDERS[0]}/{header}", f"{folder}/{header}", "", "", 0, "")
        pytest.fail("it has drifted (make sync copies the first over the others):\n"
                    + "\n".join(list(drift)[:20]))


@STAGES
def test_a_stage_is_one_short_file(folder):
    lines = (ROOT / folder / "server.cpp").read_text().splitlines()
    assert len(lines) <= 150
    assert lines[0].startswith("//")


@STAGES
def test_a_folder_holds_files_and_no_links(folder):
    for path in (ROOT / folder).iterdir():
        assert path.is_file() and not path.is_symlink(), path


# Compiling takes seconds each, so all that will be asked for is started together, as many at a
# time as there are CPUs.

STANDARD = ["-std=c++20"]
WARNINGS = "-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror".split()
POSIX = "-D_POSIX_C_SOURCE=200809L -std=c++20 -pedantic-errors -fsyntax-only".split()
WITHOUT_EPOLL = "-DSELECTOR_WITHOUT_EPOLL"
# The compiler defines _GNU_SOURCE for the sake of its own library, and so everything is declared.
# Without it that library has errors of its own (which are none of ours), and we have to do with
# what POSIX has.
STRICT = ["-U_GNU_SOURCE", *POSIX]
PORTABLE = [folder for folder in FOLDERS if folder != "05_epoll"]
LAST = FOLDERS[-1]


def _jobs(copies):
    """What there is to compile: a name, and the command. {folder} is a copy outside the tree."""
    jobs = {}
    for folder in FOLDERS:
        server = copies / folder / "server.cpp"
        jobs[f"alone {folder}"] = ["g++", *STANDARD, "-O2", *WARNINGS, "-o",
                                   copies / folder / "server", server]
        jobs[f"clang {folder}"] = ["clang++", *STANDARD, *WARNINGS, "-fsyntax-only", server]
        without = [WITHOUT_EPOLL] * (folder == LAST)
        jobs[f"posix {folder}"] = ["g++", *POSIX, *without, server]
        jobs[f"strict {folder}"] = ["g++", *STRICT, *without, server]
    jobs["without epoll"] = ["g++", *STANDARD, *WARNINGS, WITHOUT_EPOLL, "-o",
                             copies / "without_epoll", copies / LAST / "server.cpp"]
    return jobs


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The folders, alone in an empty place."""
    empty = tmp_path_factory.mktemp("alone")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, empty / folder)
    return empty


@pytest.fixture(scope="module")
def compiled(copies, request):
    """Waits for a job, and returns how it ended and what it said."""
    jobs = _jobs(copies)
    wanted = [item.callspec.params["job"] for item in request.session.items
              if "job" in getattr(getattr(item, "callspec", None), "params", {})]

    def run(job):
        if not shutil.which(jobs[job][0]):
            return None
        return subprocess.run(list(map(str, jobs[job])), capture_output=True, text=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = {job: pool.submit(run, job) for job in wanted}

        def result(job):
            ended = results[job].result()
            if ended is None:
                pytest.skip(f"there is no {jobs[job][0]} here")
            return ended

        yield result
        for waiting in results.values():
            waiting.cancel()


@pytest.mark.parametrize("job", [f"alone {folder}" for folder in FOLDERS])
def test_builds_alone(compiled, copies, job):
    """A folder copied elsewhere builds by itself, without a warning, and runs."""
    ended = compiled(job)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    folder = job.split()[1]
    program = copies / folder / "server"
    variant = Variant(folder, folder, FOLDERS.index(folder) + 1, program)
    with Server(variant, ["greet"]) as server, Client(server.address()) as client:
        assert client.recv_line().startswith(b"welcome")


@pytest.mark.parametrize("job", [f"clang {folder}" for folder in FOLDERS])
def test_clang_has_nothing_to_say(compiled, job):
    ended = compiled(job)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr


@pytest.mark.parametrize("job", [f"posix {folder}" for folder in PORTABLE])
def test_compiles_as_posix(compiled, job):
    ended = compiled(job)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("job", [f"strict {folder}" for folder in PORTABLE])
def test_uses_nothing_beyond_posix(compiled, copies, job):
    """Where nothing else is declared, our own files have no error."""
    ours = re.escape(str(copies / job.split()[1]))
    said = compiled(job).stderr
    assert "fatal error" not in said            # or it would not have come as far as our files
    assert re.findall(rf"^{ours}/(.*error: .*)$", said, re.M) == []


@pytest.mark.parametrize("job", ["without epoll"])
def test_stage_6_does_without_epoll(compiled, copies, job):
    """Where the system has none, the folder builds and serves all the same, with poll."""
    ended = compiled(job)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    variant = Variant(LAST, "6", 6, copies / "without_epoll")
    with Server(variant, ["echo"]) as server, Client(server.address()) as client:
        assert client.exchange(b"hello\n") == b"hello\n"
        assert server.events[0]["selector"] == "poll"
        assert server.wait_for("wait")["call"] == "poll"
    refused = run_program(variant, "-s", "epoll")
    assert refused.returncode == 2 and "select or poll" in refused.stderr
