"""Plays rungs against a server, each with one that is started anew."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Optional

from tests.ladder.exam import Exam, Failed
from tests.ladder.examined import Examined, Unseen
from tests.ladder.rungs import RUNGS, Rung


def climb(rung: Rung, server: Examined, service: str,
          stage: int = 0) -> tuple[Exam, Optional[Failed], str]:
    """Plays one rung: what failed, or why it was skipped."""
    exam = Exam(server, service, stage)
    if rung.started and not server.command:
        return exam, None, "it was not started by us"
    try:
        if wrong := server.start():
            raise Failed("the server starts, and listens", wrong)
        rung.play(exam)
    except Failed as failed:
        return exam, failed, ""
    except (Unseen, PermissionError) as why:
        return exam, None, str(why)
    except OSError as error:               # of a client
        return exam, Failed("the client's call succeeds", str(error)), ""
    finally:
        server.kill()                      # first, or it tells of clients that we close
        exam.close()
    return exam, None, ""


def first_failure(command: str, service: str, stage: int = 0) -> str:
    """The rung at which this server's climb ends; "" if it does not."""
    for rung in RUNGS:
        if service in rung.services and stage not in rung.not_for:
            if climb(rung, Examined(command), service, stage)[1]:
                return rung.name
    return ""


def failures(command: str, service: str, stage: int = 0, at_once: int = 4) -> dict[str, str]:
    """All rungs that this server does not climb, and why, in the order of the ladder."""
    rungs = [rung for rung in RUNGS if service in rung.services]
    with ThreadPoolExecutor(at_once) as pool:
        outcomes = pool.map(lambda rung: climb(rung, Examined(command), service, stage), rungs)
    return {rung.name: f"{failed}; it said: {exam.server.printed[-200:].decode(errors='replace')}"
            for rung, (exam, failed, _) in zip(rungs, outcomes) if failed}
