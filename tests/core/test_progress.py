"""The progress line: its text, where it is shown, and that it is erased."""

import io
import sys
import threading
from types import ModuleType

import pytest

from toolkit import Pipeline
from toolkit.conformance.models import COSTS, tiny
from toolkit.figures import draw_figures
from toolkit.progress import show_progress, working


class Terminal(io.StringIO):
    def isatty(self):
        return True


def stderr(monkeypatch, stream):
    """Put `stream` in place of stderr; not in a fixture, because pytest puts its own there after."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def shown(terminal):
    """What was written since the last look."""
    text = terminal.getvalue()
    terminal.seek(0)
    terminal.truncate()
    return text


def test_a_library_is_silent(monkeypatch):
    terminal = stderr(monkeypatch, Terminal())
    with working("Compiling"):
        pass
    assert shown(terminal) == ""


def test_what_is_no_terminal_gets_nothing(monkeypatch):
    piped = stderr(monkeypatch, io.StringIO())
    with show_progress(), working("Compiling"):
        pass
    assert shown(piped) == ""


def test_a_closed_stderr_gets_nothing(monkeypatch):
    stderr(monkeypatch, None)
    with show_progress(), working("Compiling"):
        pass


def test_a_line_is_shown_and_erased(monkeypatch):
    terminal = stderr(monkeypatch, Terminal())
    with show_progress():
        assert shown(terminal) == ""
        with working("Compiling [kernels]"):
            assert "Compiling [kernels] …" in shown(terminal)
        assert shown(terminal).endswith("\r\x1b[1A\x1b[2K")  # up to the line, and erase it


def test_the_inner_text_is_shown_and_then_the_outer_again(monkeypatch):
    terminal = stderr(monkeypatch, Terminal())
    with show_progress(), working("Loading"):
        assert "Loading" in shown(terminal)
        with working("Compiling"):
            assert "Compiling" in shown(terminal)
        assert "Loading" in shown(terminal)


def test_after_an_error_nothing_is_left(monkeypatch):
    terminal = stderr(monkeypatch, Terminal())

    def fails():
        with working("Compiling"):
            raise OSError

    with show_progress():
        with pytest.raises(OSError):  # noqa: PT011
            fails()
        shown(terminal)
        with working("Loading"):
            assert "Compiling" not in shown(terminal)
    shown(terminal)
    with working("Later"):
        pass
    assert shown(terminal) == ""


def test_threads_may_work_at_once(monkeypatch):
    terminal = stderr(monkeypatch, Terminal())
    done = threading.Event()

    def work():
        with working("Measuring"):
            done.wait(10)

    with show_progress():
        thread = threading.Thread(target=work)
        thread.start()
        with working("Loading"):
            done.set()
            thread.join()
        shown(terminal)
        with working("Compiling"):
            assert "Compiling" in shown(terminal)


def test_stdout_is_left_alone(monkeypatch):
    stderr(monkeypatch, Terminal())
    stdout = sys.stdout
    with show_progress(), working("Loading"):
        assert sys.stdout is stdout


def test_measuring_costs_says_so(monkeypatch):
    terminal = stderr(monkeypatch, Terminal())
    pipeline, said = Pipeline(tiny("llama", 0), drafter="ngram", shaper="chain"), []
    monkeypatch.setattr(
        "toolkit.runtime.measure_costs.measure_costs",
        lambda *_: said.append(shown(terminal)) or COSTS,
    )
    with show_progress():
        pipeline.costs(fresh=True)
    assert "and levels of ngram cost …" in said[0]
    assert "Measuring" not in shown(terminal).rpartition("\x1b[2K")[2]


def test_every_figure_is_named_while_it_is_drawn(monkeypatch, tmp_path):
    terminal = stderr(monkeypatch, Terminal())
    figures, said = [ModuleType("figures.one"), ModuleType("figures.two")], []
    for figure in figures:
        figure.TITLE = figure.__name__
        figure.draw = lambda *_: said.append(shown(terminal))
    with show_progress():
        assert draw_figures(figures, None, "", tmp_path) == []
    for figure in figures:
        assert f"Drawing: {figure.TITLE} …" in "".join(said)
