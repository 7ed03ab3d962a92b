"""Graders: is an answer right? 1 or 0, by comparing it with the reference, or by running it."""

from __future__ import annotations

import os
import re
import signal
import string
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from secrets import token_hex

SECONDS = 10  # of CPU time that a program may take
WAIT = 100  # seconds until a program that sleeps is ended; on a busy machine others take long, too
MEMORY = 1 << 30  # bytes of address space that it may have
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
LETTERS = (
    re.compile(r"^\W*([A-Z])(?=[.):,]|\s*$|\s*\n)"),  # B, (B), B. the second
    re.compile(r"answer(?: is)?[:\s]\W*([A-Z])\b", re.IGNORECASE),  # the answer is B
    re.compile(r"\(([A-Z])\)"),
)
RUNNER = """
import ctypes, os, resource, sys
done, program = sys.stdin.readline(), sys.stdin.read()
ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # no network, where user namespaces are allowed
for name, most in (("CPU", int(sys.argv[1])), ("AS", int(sys.argv[2])), ("FSIZE", 1 << 20),
                   ("NOFILE", 64), ("CORE", 0), ("NPROC", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
out, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
for stream in range(3):
    os.dup2(null, stream)
exec(compile(program, "answer", "exec"), {"__name__": "__main__"})
os.write(out, done.encode())
"""

Grader = Callable[[str, str, str], float]
"""`(prompt, answer, reference) -> 1.0 or 0.0`."""


def grade_letter(_: str, answer: str, reference: str) -> float:
    """Whether the answer chooses the reference's letter: `B`, `(B)`, `B. …` or `the answer is B`."""
    found = next(filter(None, (pattern.search(answer) for pattern in LETTERS)), None)
    return float(found is not None and found[1] == reference)


def grade_word(_: str, answer: str, reference: str) -> float:
    """Whether the answer's first word is the reference, in any case."""
    words = re.findall(r"\w+(?:['’]\w+)*", answer)
    return float(bool(words) and words[0].casefold() == reference.casefold())


def grade_exact(_: str, answer: str, reference: str) -> float:
    """Whether the answer is the reference, spaces around it aside."""
    return float(answer.strip() == reference.strip())


def grade_normalised(_: str, answer: str, reference: str) -> float:
    """Whether the answer's first line is the reference, without case, punctuation and articles (SQuAD's
    normalisation, Rajpurkar et al. 2016)."""
    line = next((line for line in answer.splitlines() if line.strip()), "")
    return float(_normalise(line) == _normalise(reference))


def _normalise(text: str) -> str:
    bare = "".join(char for char in text.casefold() if char not in string.punctuation)
    return " ".join(word for word in bare.split() if word not in ("a", "an", "the"))


def grade_execution(prompt: str, answer: str, reference: str) -> float:
    """Whether prompt, answer and reference, a program of tests, run to the end in their own process.

    The process has `SECONDS` of CPU time, at most `WAIT` seconds, `MEMORY` bytes, no environment, an
    empty working folder, and no network where the system lets it give that up. It can read whatever
    the user can read: that is no sandbox.
    """
    program = f"{prompt}{take_code(answer)}\n{reference}\n"
    done = token_hex(16)
    command = [sys.executable, "-I", "-S", "-c", RUNNER, str(SECONDS), str(MEMORY)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(  # noqa: S603 it was allowed
            command, cwd=folder, env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True, text=True,
        ) as child,
    ):  # fmt: skip
        try:
            said, _ = child.communicate(f"{done}\n{program}", timeout=WAIT)
        except subprocess.TimeoutExpired:
            return 0.0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    return float(said.strip() == done)


def take_code(answer: str) -> str:
    """The code of an answer: its first fenced block, or a function's body up to the first line after it
    that is not indented."""
    if fenced := FENCED.search(answer):
        return f"\n{fenced[1]}"
    lines = answer.splitlines()
    if not lines or (lines[0][:1].strip() and re.match(r"(def|from|import|class|@)\b", lines[0])):
        return answer
    ends = (n for n, line in enumerate(lines[1:], 1) if line[:1].strip())
    return "\n".join(lines[: next(ends, len(lines))])


GRADERS: dict[str, Grader] = {
    "letter": grade_letter,
    "word": grade_word,
    "exact": grade_exact,
    "normalised": grade_normalised,
    "execution": grade_execution,
}
