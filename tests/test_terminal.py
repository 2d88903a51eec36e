"""What reaches a terminal: no escape of a file's name, a caption or an answer."""

import io
import logging
import re
import subprocess
import sys
import warnings
from argparse import ArgumentParser

import pytest
from rich.table import Table

from lit_blip2.console import Console, styled
from lit_blip2.contents import DataError
from lit_blip2.terminal import duration, first_few, guard, one_line, printable, say

HOSTILE = "a\x1b]0;owned\x07\x9b2J\x7f\u202eb\rc\udcff"


def is_clean(text: str) -> bool:
    return not any(mark in text for mark in "\x1b\x07\x9b\x7f\u202e\r\udcff") and "\\x1b" in text


def test_control_characters_are_written_out_and_all_else_stays():
    assert is_clean(printable(HOSTILE)) and printable("\x1b\x9b\udcff") == r"\x1b\x9b\udcff"
    for text in ("", "plain", "a\tb\nc", "日本語 ü é ½", "🙂", r"\x1b"):
        assert printable(text) == text
    assert is_clean(str(DataError(HOSTILE)))


def test_an_error_of_many_lines_becomes_one():
    assert one_line(ValueError("a\n  b\tc")) == "a b c" and one_line("a\nbcd", 3) == "a b" and one_line("\n") == ""


def test_a_time_has_the_unit_that_one_would_say():
    told = {0.4: "0 s", 99: "99 s", 100: "2 min", 5999: "100 min", 6000: "1.7 h", 172799: "48.0 h", 432000: "5.0 days"}
    assert {seconds: duration(seconds) for seconds in told} == told


def test_a_long_list_is_cut_and_says_how_much_is_left():
    assert first_few(["a", "b"], 2) == "a, b" and first_few([], 2) == ""
    assert first_few(list("abcde"), 2) == "a, b and 3 more" and first_few(list("abc"), 2, "; ") == "a; b; and 1 more"


def test_lines_and_tables_are_printable(capsys):
    say(HOSTILE)
    say(HOSTILE, error=True)
    assert all(map(is_clean, capsys.readouterr()))
    stream, table = io.StringIO(), Table("head", title=HOSTILE)
    table.add_row(HOSTILE)
    Console(file=stream, force_terminal=True, color_system=None, width=200).print(table, HOSTILE)
    assert is_clean(stream.getvalue()) and stream.getvalue().count("owned") == 3


MARKED = ["[link=http://evil/x]vqa[/link]", "[/bad]", "[bold red]a[/]", ":warning:", "[@click=app.bell]x[/]"]


def test_no_text_is_markup():
    """A metric's name, a run's folder or a title is somebody's: rich would make a link of it, or raise MarkupError."""
    stream, table = io.StringIO(), Table("head", title=" ".join(MARKED), caption=MARKED[0])
    table.add_column(MARKED[0])
    for text in MARKED:
        table.add_row(text, text)
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=400)
    console.print(table, *MARKED)
    console.rule(MARKED[0])
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert "\x1b" not in text and all(text.count(each) >= 4 for each in MARKED) and text.count(MARKED[0]) == 7


def test_a_styled_text_is_printable():
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system="truecolor").print(styled(f"[red]{HOSTILE}", "green"))
    text = stream.getvalue().removeprefix("\x1b[32m")
    assert text.startswith("[red]a\\x1b") and text.removesuffix("\x1b[0m\n").count("\x1b") == 0


@pytest.fixture
def guarded(monkeypatch):
    """As the command line has it, for one test."""
    for place, name in ((warnings, "showwarning"), (sys, "excepthook"), (ArgumentParser, "_print_message")):
        monkeypatch.setattr(place, name, getattr(place, name))
    before = logging.getLogRecordFactory()
    guard()
    yield
    logging.setLogRecordFactory(before)


def test_warnings_log_lines_and_tracebacks_are_printable(guarded, capsys):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("tests.terminal")
    logger.addHandler(handler)
    logger.error("image %s", HOSTILE)
    logger.removeHandler(handler)
    assert is_clean(stream.getvalue())
    warnings.showwarning(HOSTILE, UserWarning, "a.py", 1)
    sys.excepthook(KeyError, KeyError(HOSTILE), None)
    sys.excepthook(RuntimeError, RuntimeError(HOSTILE), None)
    assert is_clean(capsys.readouterr().err)


def test_a_warning_to_the_user_tells_its_place_in_the_code_where_asked_alone(guarded, capsys):
    """Also behind Lightning's import, which sets a formatwarning of its own."""
    warnings.showwarning("too few", UserWarning, "a.py", 1)
    guard(places=False)
    warnings.showwarning("too few", UserWarning, "a.py", 1)
    warnings.showwarning("old", FutureWarning, "a.py", 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["a.py:1: UserWarning: too few", "warning: too few", "a.py:1: FutureWarning: old"]


def test_what_a_commands_parser_says_is_printable(guarded, capsys):
    """Names of files that it found, and messages of libraries, are in its errors."""
    parser = ArgumentParser("a")
    parser.add_argument("--b", choices=[HOSTILE])
    with pytest.raises(SystemExit):
        parser.error(f"there are: {HOSTILE}")
    parser.print_help()
    assert all(map(is_clean, capsys.readouterr()))


@pytest.mark.run
def test_a_file_whose_name_is_an_escape_is_refused_in_print(tmp_path):
    """By the command line itself, in a process of its own."""
    folder = tmp_path / "a\x1b[2J\x1b]0;owned\x07"
    (folder / "cells").mkdir(parents=True)
    (folder / "plan.json").write_bytes(b"{")
    found = subprocess.run(
        [sys.executable, "-m", "lit_blip2", "report", str(folder)], capture_output=True, text=True, check=False
    )
    assert found.returncode and is_clean(found.stderr) and "owned" in found.stderr
