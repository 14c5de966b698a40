"""The ladder judges fairly: right servers of any kind climb it, others learn why they do not."""

import re
import shlex
import subprocess
import sys
import time

import pytest

from tests.bugs.patches import paths
from tests.harness import DEADLINE, ROOT, free_port
from tests.ladder.climb import failures
from tests.ladder.rungs import RUNGS

pytestmark = pytest.mark.sources

THREADED = """\
import socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            while data := self.request.recv(4096):
                self.request.sendall(data)
        except ConnectionError:
            pass
class Server(socketserver.{kind}):
    allow_reuse_address, request_queue_size, daemon_threads = True, 100, True
    max_children = 100
    def handle_error(self, request, address): pass
    def get_request(self):
        try:
            return super().get_request()
        except OSError:
            import time
            time.sleep(0.05)
            raise
Server(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""
ASYNC = """\
import asyncio, sys
async def echo(reader, writer):
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", int(sys.argv[1]))
    await asyncio.Event().wait()   # serve_forever() waits for all clients at the end (Python 3.13)
asyncio.run(main())
"""
BLOCKING = """\
import socket, sys
listener = socket.create_server({address}, family={family})
{before}
while True:
    client, _ = listener.accept()
    {greeting}
    while data := client.recv(4096):
        client.sendall(data)
    client.close()
"""


def blocking(address='("127.0.0.1", int(sys.argv[1]))', family="socket.AF_INET", before="",
             greeting="pass"):
    return BLOCKING.format(address=address, family=family, before=before, greeting=greeting)


@pytest.fixture
def written(tmp_path):
    """How to start a Python program with that text."""
    def write(text):
        program = tmp_path / "mine.py"
        program.write_text(text)
        return f"{shlex.quote(sys.executable)} {shlex.quote(str(program))} {{port}}"
    return write


def ladder(*words):
    return subprocess.run([sys.executable, "-m", "tests.ladder", *words], text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=4 * DEADLINE)


def ours(variant, service):
    words = [str(variant.program), *variant.arguments, "-q", f"-{service[0]}"]
    return shlex.join(words) + " {port}"


@pytest.mark.parametrize("service", ["echo", "greet", "chat"])
def test_a_stage_climbs_all_but_what_it_is_there_to_show(variant, service):
    expected = {rung.name for rung in RUNGS if service in rung.services
                and variant.stage in rung.not_for}
    found = failures(ours(variant, service), service, variant.stage)
    assert set(found) == expected, found


@pytest.mark.parametrize("text", [
    THREADED.format(kind="ThreadingTCPServer"), THREADED.format(kind="ForkingTCPServer"), ASYNC],
    ids=["threads", "processes", "asyncio"])
def test_it_is_for_any_kind_of_server(written, text):
    assert failures(written(text), "echo") == {}


@pytest.mark.parametrize("how", [
    dict(before="import threading, os\\nthreading.Thread(target=lambda: [os.write(1, b'x' * 999)"
                " for _ in iter(int, 1)], daemon=True).start()"),
    dict(address="(__import__('time').sleep(1) or '127.0.0.1', int(sys.argv[1]))"),
    dict(address="('0.0.0.0', int(sys.argv[1]))"),
    dict(address="('::', int(sys.argv[1]))", family="socket.AF_INET6")],
    ids=["prints without end", "is slow to start", "listens on 0.0.0.0", "listens on ::"])
def test_a_server_may_be_odd(written, how):
    program = written(blocking(**{key: value.replace("\\n", "\n") for key, value in how.items()}))
    done = ladder("--server", program, "--rung", "one_byte")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("text, rung, came", [
    ("", "listens", "it ended (exit status 0) before it listened"),
    (blocking(greeting="client.sendall(b'hello there')"), "one_byte", "A got 'h'"),
    (blocking(), "two", "B got nothing in 2 s"),
    ("import nothing_of_the_kind", "listens", "exit status 1"),
])
def test_a_failure_is_explained(written, text, rung, came):
    program = written(text)
    began = time.monotonic()
    done = ladder("--server", program)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    told = lines[next(i for i, line in enumerate(lines) if "FAILED" in line):-2]
    assert rung in told[0] and came in done.stdout and len(told) <= 15
    assert "likely: " in done.stdout and all(len(line) <= 100 or "again:" in line for line in told)
    again, = re.findall(r"again: +make try (.*)", done.stdout)
    assert f"RUNG={rung}" in again and shlex.split(again)[0] == f"SERVER={program}"
    assert time.monotonic() - began < DEADLINE


def test_what_this_stage_cannot_climb_is_said(written):
    done = ladder("--server", written(blocking()), "--stage", "1", "--rung", "two")
    assert done.returncode == 0 and "this is where it ends, and rightly" in done.stdout


def test_one_that_is_running_already(written):
    port = free_port()
    words = shlex.split(written(blocking()).replace("{port}", str(port)))
    with subprocess.Popen(words) as process:
        try:
            done = ladder("--port", str(port), "--rung", "next_one")
            assert done.returncode == 0 and " ok " in done.stdout
            assert "skipped: it was not" in ladder("--port", str(port), "--rung", "ctrl_c").stdout
        finally:
            process.kill()


def test_make_test_says_at_once_that_it_is_for_servers_that_narrate(written, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\necho hello\nexec sleep 60\n")
    mine.chmod(0o755)
    done = subprocess.run([sys.executable, "-m", "pytest", "tests/checks", "--stage=4",
                           f"--server={mine}"], text=True, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 4 and "collected" not in done.stdout
    assert f'make try SERVER="{mine} {{port}}"' in done.stderr


@pytest.mark.parametrize("words, said", [
    ([], 'a server is wanted: SERVER="./mine {port}", or PORT=7000'),
    (["--server", "x", "--rung", "nonsense"], "no rung 'nonsense': LIST=1 lists them"),
    (["--server", "x", "--service", "mail"], "invalid choice: 'mail'"),
])
def test_bad_words_get_one_line(words, said):
    done = ladder(*words)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1] and not done.stdout


@pytest.mark.parametrize("service", ["echo", "greet", "chat"])
def test_the_rungs_are_listed(service):
    lines = ladder("--list", "--service", service).stdout.splitlines()
    assert 12 <= len(lines) <= 16
    assert [line.split()[0] for line in lines] == [str(n) for n in range(1, len(lines) + 1)]


def test_every_rung_says_what_it_means():
    notes = (ROOT / "NOTES.md").read_text(encoding="utf-8")
    bugs = {path.stem for path in paths("bugs")}
    for rung in RUNGS:
        assert rung.causes and rung.read in notes and rung.bug in bugs | {""}, rung.name
