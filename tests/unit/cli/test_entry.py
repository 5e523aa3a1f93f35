"""From arguments to an exit status and one sentence."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from wirt.cli import run as run_command
from wirt.cli.entry import main
from wirt.errors import CapacityError, Error, NotFoundError, UsageError


class Ended(BaseException):
    """Instead of the end of the test's own process."""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    signums: list[int] = []

    def end_self(signum: int) -> None:
        signums.append(signum)
        raise Ended

    monkeypatch.setattr("wirt.cli.entry.end_self", end_self)
    return signums


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def execute(_arguments: object) -> int:
        raise error

    monkeypatch.setattr(run_command, "execute", execute)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Say what to do: run, devices, doctor, completion. See 'wirt --help'."),
        (["rum"], "There is no command 'rum'. Did you mean run? See 'wirt --help'."),
        (["qqq"], "There is no command 'qqq'. See 'wirt --help'."),
        (["--nope"], "'wirt' has no option --nope. See 'wirt --help'."),
        (["doctor", "--format=yaml"], "Argument --format: invalid choice: 'yaml'"),
        (["run", "--kernal=x"], "'wirt run' has no option --kernal. Did you mean --kernel?"),
        (["run", "--kern", "x"], "'wirt run' has no option --kern. Did you mean --kernel?"),
        (["run", "tiny", "more"], "'wirt run' has no use for 'more'. See 'wirt run --help'."),
        (["run", "-m"], "Argument -m/--memory: expected one argument."),
        (["run", "-c", "two"], "'two' is no number of vCPUs: give 1 to 255."),
        (["run", "-c", "-1"], "'-1' is no number of vCPUs: give 1 to 255."),
        (["run", "-c", "²"], "'²' is no number of vCPUs: give 1 to 255."),
        (["run", "--timeout", "0"], "'0' is no time: give a number of seconds above 0."),
        (["run", "--timeout", "nan"], "'nan' is no time: give a number of seconds above 0."),
        (["run", "--timeout", "inf"], "'inf' is no time: give a number of seconds above 0."),
        (["run", "--serial", "file:"], "'file:' is no place for the serial console"),
        (["run", "--serial", "stdio:x"], "'stdio:x' is no place for the serial console"),
        (["run", "--disk", ",ro"], "--disk needs a file"),
        (["run", "--accel", "qemu"], "Argument --accel: invalid choice: 'qemu'"),
        (["run", "--initrd", "x"], "An initrd needs a kernel: give --kernel"),
        (["run", "--exec", "ls", "--kernel", "x"], "--exec runs in the built-in guest tiny"),
        (["run", "--exec", "ls", "--serial", "none"], "--exec needs the serial console for itself"),
        (["completion", "tcsh"], "Argument bash|zsh|fish: invalid choice: 'tcsh'"),
    ],
)
def test_wrong_usage_is_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"wirt: {sentence}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [(Error, 1), (UsageError, 2), (NotFoundError, 3), (CapacityError, 4)],
)
def test_each_kind_of_error_has_its_status(
    error: type[Error], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, error("So it is."))
    assert main(["run"]) == status
    assert capsys.readouterr().err == "wirt: So it is.\n"


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (ZeroDivisionError("x"), 1, "Wirt made a mistake (ZeroDivisionError: x): run it again with --debug"),
        (PermissionError(13, "Permission denied", "/f"), 1, "/f: Permission denied."),
        (MemoryError(), 4, "The host has no memory left for this."),
    ],
)
def test_the_unexpected_is_a_sentence_and_with_debug_a_traceback(
    error: Exception,
    status: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_with(monkeypatch, error)
    assert main(["run"]) == status
    said = capsys.readouterr().err
    assert said.startswith(f"wirt: {sentence}")
    assert "Traceback" not in said
    for words in (["--debug", "run"], ["run", "--debug"]):
        assert main(words) == status
        assert "Traceback" in capsys.readouterr().err


def test_interruption_ends_by_the_signal(
    ended: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    with pytest.raises(Ended):
        main(["run"])
    assert ended == [signal.SIGINT]
    assert capsys.readouterr().err == "wirt: Interrupted.\n"


def test_a_broken_pipe_ends_silently_by_the_signal(
    ended: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, BrokenPipeError())
    with pytest.raises(Ended):
        main(["run"])
    assert ended == [signal.SIGPIPE]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", ["--help", "-h", "run --help", "doctor -h", "completion -h"])
def test_help_has_examples(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: wirt ")
    assert "\nexamples:\n" in printed


def test_the_version_is_the_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"wirt": "1.2.3"}[name])
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "wirt 1.2.3\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("--help <&-", 0, ""),
        ("--help >&-", 1, "wirt: Standard output is closed: open it, or redirect it to /dev/null.\n"),
        ("--help <&- >&- 2>&-", 1, ""),
        ("nope 2>&-", 2, ""),
        ("--help >/dev/full", 1, "wirt: The output is incomplete: No space left on device.\n"),
    ],
)
def test_streams_that_are_closed_or_full(words: str, status: int, said: str) -> None:
    line = ["sh", "-c", f'"$0" -m wirt.cli {words}', sys.executable]
    done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == status
    assert done.stderr == said
