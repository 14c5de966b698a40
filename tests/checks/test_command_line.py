"""What each server accepts as its command line, and how it refuses the rest."""

import errno
import os
import re
import socket
import subprocess

import pytest

from tests.harness import DEADLINE, LOOPBACK, Server, own_host, run_program
from tests.harness.narration import parse

# Arguments; what the one line on stderr has to mention.
BAD_WORDS = {
    "port_too_high": (["-e", "65536"], "65536"),
    "port_negative": (["-e", "-1"], "-1"),
    "port_no_number": (["-g", "abc"], "abc"),
    "port_half_a_number": (["-c", "12x"], "12x"),
    "port_no_whole_number": (["-e", "1.5"], "1.5"),
    "port_empty": (["-e", ""], "-e"),
    "port_missing": (["-e"], "-e"),
    "second_port_bad": (["-e", "0", "-g", "70000"], "70000"),
    "unknown_option": (["-x"], "-x"),
    "unknown_option_among_others": (["-vx", "-e", "0"], '"-x"'),
    "unknown_option_before_others": (["-xv", "-e", "0"], "-x"),
    "unknown_long_option": (["-v", "--foo"], '"--foo"'),
    "stray_word": (["-e", "0", "echo"], "echo"),
    "address_missing": (["-a"], "-a"),
    "address_empty": (["-a", ""], "-a"),
    "address_no_number": (["-a", "localhost"], "localhost"),
    "address_shortened": (["-a", "127.1"], "127.1"),
    "address_out_of_range": (["-a", "127.0.0.256"], "127.0.0.256"),
    "address_ipv4_with_a_link": (["-a", "127.0.0.1%lo"], "127.0.0.1%lo"),
    "address_half_ipv6": (["-a", "::1::"], "::1::"),
    "time_missing": (["-t"], "-t"),
    "time_zero": (["-t", "0"], "0"),
    "time_negative": (["-t", "-1"], "-1"),
    "time_too_short": (["-t", "0.0009"], "0.0009"),
    "time_too_long": (["-t", "86401"], "86401"),
    "time_no_number": (["-t", "soon"], "soon"),
    "time_half_a_number": (["-t", "1s"], "1s"),
    "time_not_a_number": (["-t", "nan"], "nan"),
    "time_for_ever": (["-t", "inf"], "inf"),
    "both_v_and_q": (["-v", "-q"], "-q"),
    "escape_sequence": (["\x1b[31m"], "[31m"),
}
PRINTABLE = re.compile(r"[ -~]+\n")


def _refused(result, status, *mentions):
    """One line on stderr, of the kind that does no harm to a terminal, and that exit status."""
    assert result.returncode == status, result
    assert PRINTABLE.fullmatch(result.stderr), result.stderr
    for mention in mentions:
        assert mention in result.stderr
    return result.stderr


@pytest.mark.parametrize("word", BAD_WORDS)
def test_bad_word(variant, word):
    arguments, mention = BAD_WORDS[word]
    result = run_program(variant, *arguments)
    wrong, _, _ = _refused(result, 2).partition("usage:")
    assert mention in wrong
    assert result.stdout == ""


@pytest.mark.parametrize("word, says", [
    ("port_too_high", "65535"), ("port_no_number", "65535"), ("unknown_option", "-e PORT"),
    ("stray_word", "-e PORT"), ("address_no_number", "::1"), ("time_zero", "86400"),
    ("port_missing", "-e PORT")])
def test_a_bad_word_is_told_what_would_be_accepted(variant, word, says):
    _refused(run_program(variant, *BAD_WORDS[word][0]), 2, says)


def test_help(variant):
    result = run_program(variant, "-h")
    assert result.returncode == 0 and result.stderr == ""
    for option in ("-a", "-e", "-g", "-c", "-t", "-v", "-q", "-h"):
        assert option in result.stdout
    assert str(9001 + 100 * variant.stage) in result.stdout
    assert ("-p" in result.stdout) == (variant.stage == 2)
    assert ("-s" in result.stdout) == (variant.stage == 6)


def test_help_that_cannot_be_printed(variant):
    with open("/dev/full", "w", encoding="ascii") as full:
        result = subprocess.run([str(variant.program), *variant.arguments, "-h"], stdout=full,
                                stderr=subprocess.PIPE, text=True, timeout=DEADLINE)
    _refused(result, 1, "ENOSPC")


def test_a_port_that_is_taken(variant):
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        result = run_program(variant, "-e", str(port))
        _refused(result, 1, LOOPBACK, str(port), os.strerror(errno.EADDRINUSE))
        # Also if it is the last of several that cannot be had.
        result = run_program(variant, "-e", "0", "-c", str(port))
        _refused(result, 1, LOOPBACK, str(port))


def test_a_port_that_another_of_its_listeners_has(variant):
    result = run_program(variant, "-a", own_host(), "-e", "9999", "-g", "9999")
    _refused(result, 1, own_host(), "9999")


def test_an_address_that_is_not_ours(variant):
    result = run_program(variant, "-a", "192.0.2.1", "-e", "0")     # RFC 5737: nobody's
    _refused(result, 1, "192.0.2.1", os.strerror(errno.EADDRNOTAVAIL))


def test_a_link_that_is_not_there(variant):
    result = run_program(variant, "-a", "fe80::1%\x1bnone", "-e", "0")
    _refused(result, 1, "fe80::1%")


def test_the_highest_port(variant):
    with Server(variant, ["echo"], ["-a", own_host()], ports=[65535]) as server:
        assert server.address() == (own_host(), 65535)


def test_port_0_is_any_free_port(variant):
    with Server(variant, ["echo", "greet"]) as server:
        ports = {server.address("echo")[1], server.address("greet")[1]}
        assert len(ports) == 2 and 0 not in ports


@pytest.mark.only("1 3-6")
def test_only_stage_2_probes(variant):
    _refused(run_program(variant, "-p"), 2, "-p")


@pytest.mark.only("1-5")
def test_only_stage_6_selects_a_selector(variant):
    _refused(run_program(variant, "-s", "poll"), 2, "-s")


@pytest.mark.only("6")
def test_a_selector_that_does_not_exist(variant):
    _refused(run_program(variant, "-s", "kqueue"), 2, "kqueue", "select", "poll")
    _refused(run_program(variant, "-s", ""), 2, '""', "select", "poll")


@pytest.mark.only("2")
def test_probe(variant):
    """C2: each call once on a non-blocking socket, and what came back."""
    result = run_program(variant, "-p")
    assert result.returncode == 0 and result.stderr == ""
    lines = [parse(line) for line in result.stdout.splitlines()]
    assert lines[0].verb == "start"
    probes = [line for line in lines if line.verb == "probe"]
    assert [(p["call"], p["result"], p["errno"]) for p in probes] == [
        ("accept", "-1", "EAGAIN"),
        ("connect", "-1", "EINPROGRESS"),
        ("recv", "-1", "EAGAIN"),
        ("send", "6", "0"),
        ("send", "-1", "EPIPE"),                   # never connected
        ("send", "-1", "EAGAIN"),                  # not connected yet
        ("connect", "-1", "EINPROGRESS"),
        ("getsockopt", "-1", "ECONNREFUSED"),
    ]
    assert all(len(p["text"]) > 20 for p in probes)
