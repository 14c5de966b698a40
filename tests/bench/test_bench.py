"""bench: does it show what it measured, and say what is wrong?"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from tests.bench.aims import at_most
from tests.harness import DEADLINE, ROOT, SANITIZED
from tests.output.reading import Page, cut_off

pytestmark = pytest.mark.sources


def bench(*words: object, **env: str):
    return subprocess.run([sys.executable, "-m", "tests.bench", *map(str, words)], text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=DEADLINE,
                          env={**os.environ, "NO_COLOR": "1", "RIVALS": "", **env})


@pytest.mark.skipif(SANITIZED, reason="the bench refuses sanitized programs")
def test_bench(tmp_path):
    done = bench("--quick", "--scale", 0.03, "--out", tmp_path, "--only",
                 "busy: 1 conn|silent ones: (3|thr)|chat: 10 |start-up|stalls: 16|all CPUs: 50$",
                 "--variants", "threads")
    assert done.returncode == 0, done.stderr
    assert "about" in done.stderr and "left" in done.stderr
    results = json.loads((tmp_path / "bench.json").read_text())
    figures = results["figures"]
    busy = figures["busy"]["1"]
    for name in ("floor", "1", "2", "3", "4", "5", "6-select", "6-poll", "6-epoll", "threads"):
        cpu = busy[name]["cpu"]["median"]
        assert cpu > 0 and busy[name]["per_second"]["median"] > 0
        assert busy[name]["times_floor"] == pytest.approx(
            cpu / busy["floor"]["cpu"]["median"], rel=0.001)
    assert [point["silent"] for point in figures["silent"]["3"]["points"]] == [10, 100, 900]
    assert figures["ratios"]["1"]["5/floor"]["median"] > 0
    assert figures["ratios"]["1"]["threads/5"]["median"] > 0
    assert figures["on_all"]["50"]["threads"]["per_second"]["median"] > 0
    # A thread each: much more than what a loop keeps of a client.
    assert figures["memory"]["threads"]["bytes"] > 4096 > figures["memory"]["3"]["bytes"]

    text = (tmp_path / "bench.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.wrong() == [] and cut_off(text) == []
    shown = {each["text"] for each in page.elements}
    for table in results["tables"]:
        for row in table["rows"]:
            assert {row["name"], *row["cells"]} <= shown
            assert any(line.startswith(row["name"]) for line in done.stdout.splitlines())
    for aim in results["aims"]:
        assert {aim["aim"], aim["shown"], aim["wanted"]} <= shown
        assert f"{aim['aim']}: {aim['shown']} ({aim['wanted']})" in done.stdout
    again = bench("--again", "--markdown", "--out", tmp_path)
    assert again.returncode == 0 and "| 5 epoll |" in again.stdout


@pytest.mark.parametrize("ascii_only", [
    {}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["", "ascii"])
def test_a_compiler_of_any_name_is_asked_for_its_version(tmp_path, ascii_only):
    compiler = tmp_path / "a b'ü"
    compiler.write_text("#!/bin/sh\necho version 1\n")
    compiler.chmod(0o755)
    built = f"{shlex.quote(str(compiler))} -std=c++20 -DX='a b'"
    (tmp_path / "compiled-with").write_text(built + "\n", encoding="utf-8")
    script = "from tests.bench.machine import machine; print(ascii(machine()['built']))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True,
                          env={**os.environ, "BUILD": str(tmp_path), **ascii_only},
                          capture_output=True, timeout=DEADLINE)
    assert done.stdout == ascii(f"{built}  (version 1)") + "\n", done.stderr


@pytest.mark.parametrize("figure, limit, shown", [
    (250.04, 250, "250.04 bytes"), (250.0000004, 250, "250.0000004 bytes"), (251, 250, "251 bytes"),
    (249.99, 250, "250 bytes"), (250, 250, "250 bytes"), (0.1, 250, "0 bytes")])
def test_a_verdict_can_be_seen_from_its_figure(figure, limit, shown):
    found = at_most("memory", limit, figure, " bytes", 0)
    assert (found["shown"], found["met"]) == (shown, figure <= limit)


@pytest.mark.parametrize("words, env, said", [
    (["--scale", "0"], {}, "--scale"), ([], {"RIVALS": "x"}, "name=program is wanted"),
    ([], {"RIVALS": "x=/nowhere/y"}, "/nowhere/y is no program"),
    (["--variants", "x"], {}, "there is no variant 'x'")])
def test_bench_bad_words(words, env, said):
    done = bench(*words, **env)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]
