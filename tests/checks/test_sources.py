"""The folders themselves: alike where they have to be, and each complete in itself."""

import difflib
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import DEADLINE, FOLDERS, ROOT, Client, Server, Variant, run_program

pytestmark = pytest.mark.sources

STAGES = pytest.mark.parametrize("folder", FOLDERS)
# What each stage has beside the headers of the stage before.
NEW_HEADERS = {
    "01_blocking": {"calls.hpp", "listener.hpp", "narration.hpp", "options.hpp", "outbox.hpp",
                    "service.hpp", "signals.hpp", "text.hpp"},
    "02_nonblocking_busyloop": {"clients.hpp", "deadlines.hpp"},
    "03_select": {"waits.hpp"},
}
SHARED = [(name, first) for first, names in NEW_HEADERS.items() for name in sorted(names)]
OWN = {"02_nonblocking_busyloop": {"probe.hpp", "rounds.hpp"},
       "06_selector_callbacks": {"selector.hpp"}}


def _lines(folder, name="server.cpp"):
    return (ROOT / folder / name).read_text().splitlines()


def _drift(one, other, one_name, other_name):
    diff = difflib.unified_diff(one, other, one_name, other_name, "", "", 0, "")
    return "\n".join(list(diff)[:20])


@pytest.mark.parametrize("header, first", SHARED)
def test_what_does_not_differ_is_the_same_file(header, first):
    for folder in FOLDERS[FOLDERS.index(first) + 1:]:
        one, other = ROOT / first / header, ROOT / folder / header
        if one.read_bytes() != other.read_bytes():
            pytest.fail("it has drifted (make sync copies the first over the others):\n" + _drift(
                _lines(first, header), _lines(folder, header), str(one), str(other)))


@STAGES
def test_a_folder_has_no_other_headers(folder):
    shared = {name for name, first in SHARED if FOLDERS.index(first) <= FOLDERS.index(folder)}
    assert {path.name for path in (ROOT / folder).glob("*.hpp")} == shared | OWN.get(folder, set())


# --- server.cpp: the lesson -------------------------------------------------------------------

def _what_to_do(folder):
    """The lines of server.cpp from "What to do with it" to the members that differ."""
    lines = _lines(folder)
    begin = next(i for i, line in enumerate(lines) if "---- What to do with it:" in line)
    return lines[begin:next(i for i, line in enumerate(lines) if "char buffer_[" in line) + 1]


@pytest.mark.parametrize("folder", ["04_poll", "05_epoll"])
def test_stages_3_4_and_5_do_the_same_with_a_socket(folder):
    first = "03_select"
    assert not _drift(_what_to_do(first), _what_to_do(folder), first, folder)


@pytest.mark.parametrize("folder, most", zip(FOLDERS, (140, 230, 270, 270, 270, 270)))
def test_a_stage_is_one_short_file(folder, most):
    assert len(_lines(folder)) <= most
    assert _lines(folder)[0].startswith(f"// Stage {int(folder[:2])}: ")
    for path in (ROOT / folder).glob("*.hpp"):
        assert len(path.read_text().splitlines()) <= (320 if path.name == "selector.hpp" else 200)


# Lines that differ; of the code and the opening comment.
@pytest.mark.parametrize("number, most", [(3, 135), (4, 85), (5, 95), (6, 120)])
def test_one_stage_differs_little_from_the_next(number, most):
    diff = difflib.ndiff(_lines(FOLDERS[number - 2]), _lines(FOLDERS[number - 1]))
    assert sum(line.startswith(("- ", "+ ")) for line in diff) <= most


CALLS = ("accept", "recv", "send", "close")
ASKS = {3: ["select"], 4: ["poll"], 5: ["epoll_ctl", "epoll_wait"]}


@STAGES
def test_every_call_stands_in_the_server(folder):
    text = (ROOT / folder / "server.cpp").read_text()
    assert [call for call in CALLS if f"calls_.{call}(" not in text] == []
    for call in ASKS.get(int(folder[:2]), []):
        assert f"::{call}(" in text


@pytest.mark.parametrize("folder", FOLDERS[:-1])
def test_callbacks_are_the_subject_of_stage_6(folder):
    for path in (ROOT / folder).iterdir():
        code = re.sub(r"//.*", "", path.read_text())
        assert not re.search(r"std::function|\bvirtual\b|\btemplate\b|<functional>", code), path


# --- the stack: how far it is from main() to a system call --------------------------------------

# What a debugger shows at the first call made for a client, the system call itself counted. With
# -g1 it shows a function that the compiler has put into another as a frame of its own.
DEPTHS = [("alone 02_nonblocking_busyloop", "recv", 6), ("alone 03_select", "recv", 6),
          ("alone 04_poll", "recv", 6), ("alone 05_epoll", "recv", 6),
          ("alone 05_epoll", "epoll_ctl", 7), ("alone 06_selector_callbacks", "epoll_ctl", 10)]


@pytest.mark.parametrize("job, call, most", DEPTHS)
def test_few_frames_from_main_to_a_call(job, call, most, compiled, copies, tmp_path):
    if not shutil.which("gdb"):
        pytest.skip("there is no gdb here")
    ended = compiled(job)
    assert ended.returncode == 0, ended.stderr
    with _server(copies, job, "echo") as server, Client(server.address()) as first:
        first.exchange(b"hello\n")                 # the program is up, and its libraries are bound
        commands = tmp_path / "commands"
        commands.write_text(f"set pagination off\nbreak -qualified {call}\necho set\\n\n"
                            "continue\nbacktrace\ndetach\nquit\n")
        gdb = subprocess.Popen(["gdb", "-nx", "-q", "-p", str(server.pid), "-x", str(commands)],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
        said = []
        for line in gdb.stdout:
            said.append(line)
            if line.startswith("set"):
                break
        second = Client(server.address())
        second.send(b"hello\n")
        said += gdb.communicate(timeout=DEADLINE)[0].splitlines(keepends=True)
        second.close()
    frames = [line for line in said if re.match(r"#\d+ ", line)]
    if not frames and any("ptrace: Operation not permitted" in line for line in said):
        pytest.skip("this system lets no debugger attach")
    assert frames and " main (" in frames[-1], "".join(said)
    assert len(frames) <= most, "".join(frames)


# --- each folder by itself ------------------------------------------------------------------------

@STAGES
def test_a_folder_holds_files_and_no_links(folder):
    for path in (ROOT / folder).iterdir():
        assert path.is_file() and not path.is_symlink(), path


# Compiling takes seconds each, so all that will be asked for is started together, in the order in
# which it is asked for, as many at a time as there are CPUs.

WARNINGS = "-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror".split()
POSIX = "-D_POSIX_C_SOURCE=200809L -pedantic-errors".split()
WITHOUT_EPOLL = "-DSELECTOR_WITHOUT_EPOLL"
COMPILERS = {
    "alone": ["g++", "-O0", "-g", *WARNINGS, *POSIX],
    "clang": ["clang++", "-fsyntax-only", *WARNINGS],
    # The compiler defines _GNU_SOURCE for the sake of its own library, and so everything is
    # declared. Without it that library has errors of its own (which are none of ours), and we have
    # to do with what POSIX has.
    "strict": ["g++", "-U_GNU_SOURCE", *POSIX, "-fsyntax-only"],
    "without_epoll": ["g++", WITHOUT_EPOLL, *WARNINGS, *POSIX],
}
PORTABLE = [folder for folder in FOLDERS if folder != "05_epoll"]
LAST = FOLDERS[-1]


def _jobs(kind, folders=FOLDERS):
    return pytest.mark.parametrize("job", [f"{kind} {folder}" for folder in folders])


def _run(job, copies):
    """Compiles a copy outside the tree; None if there is no such compiler here."""
    kind, folder = job.split()
    if not shutil.which(COMPILERS[kind][0]):
        return None
    command = [*COMPILERS[kind], "-std=c++20", copies / folder / "server.cpp"]
    if "-fsyntax-only" not in command:
        command += ["-o", copies / folder / kind]
    if kind == "strict" and folder == LAST:
        command.append(WITHOUT_EPOLL)
    return subprocess.run(command, capture_output=True, text=True)


def _server(copies, job, service):
    """The program that this job has made, running."""
    kind, folder = job.split()
    variant = Variant(folder, folder[1], int(folder[:2]), copies / folder / kind)
    return Server(variant, [service])


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
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = dict.fromkeys(params["job"] for params in asked if "job" in params)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = {job: pool.submit(_run, job, copies) for job in wanted}

        def result(job):
            ended = results[job].result()
            if ended is None:
                pytest.skip(f"there is no {COMPILERS[job.split()[0]][0]} here")
            return ended

        yield result
        for waiting in results.values():
            waiting.cancel()


@_jobs("alone")
def test_builds_alone(compiled, copies, job):
    """A folder copied elsewhere builds by itself, as POSIX, without a warning, and runs."""
    ended = compiled(job)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    with _server(copies, job, "greet") as server, Client(server.address()) as client:
        assert client.recv_line().startswith(b"welcome")


@_jobs("clang")
def test_clang_has_nothing_to_say(compiled, job):
    ended = compiled(job)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr


@_jobs("strict", PORTABLE)
def test_uses_nothing_beyond_posix(compiled, copies, job):
    """Where nothing else is declared, our own files have no error."""
    ours = re.escape(str(copies / job.split()[1]))
    said = compiled(job).stderr
    assert "fatal error" not in said            # or it would not have come as far as our files
    assert re.findall(rf"^{ours}/(.*error: .*)$", said, re.M) == []


@_jobs("without_epoll", [LAST])
def test_stage_6_does_without_epoll(compiled, copies, job):
    """Where the system has none, the folder builds and serves all the same, as POSIX, with poll."""
    ended = compiled(job)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    with _server(copies, job, "echo") as server, Client(server.address()) as client:
        assert client.exchange(b"hello\n") == b"hello\n"
        assert server.events[0]["selector"] == "poll"
        assert server.wait_for("wait")["call"] == "poll"
    refused = run_program(server.variant, "-s", "epoll")
    assert refused.returncode == 2 and "select or poll" in refused.stderr
