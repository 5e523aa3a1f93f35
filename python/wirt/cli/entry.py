"""The command `wirt`: from arguments to an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence

from wirt.cli.commands import COMMANDS, add_common_options
from wirt.cli.parser import Parser, suggestion
from wirt.cli.signals import EndedBySignal, end_self
from wirt.errors import Error, UsageError

_DESCRIPTION = """\
Runs virtual machines: with KVM where the processor offers it, elsewhere with
Wirt's own recompiler."""

_EPILOG = """\
examples:
  wirt run tiny                  boot the built-in guest to a shell
  wirt run --exec 'uname -a'     run one command in it
  wirt ls                        the machines that run
  wirt doctor                    what this host offers

exit status:
  0  done
  1  failed
  2  wrong usage
  3  something named was not found
  4  the host has not the capacity

'wirt COMMAND --help' tells of each command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what `arguments` (default: the process's) say and return the exit status.

    Every error becomes one sentence on stderr. Interrupted by a signal, the process ends by it.
    """
    closed = _open_standard_streams()
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        _complain("Interrupted.")
        end_self(signal.SIGINT)
    except EndedBySignal as ending:
        if ending.signum != signal.SIGPIPE:
            _complain(f"Ended by {signal.Signals(ending.signum).name}.")
        end_self(ending.signum)
    except BrokenPipeError:
        end_self(signal.SIGPIPE)
    except Exception as error:
        if "--debug" in words:
            import traceback

            traceback.print_exc()
        status, sentence = _explain(error)
        if "stdout" in closed and isinstance(error, OSError) and error.errno == errno.EBADF:
            sentence = "Standard output is closed: open it, or redirect it to /dev/null."
        _complain(sentence)
        _discard_unwritten_output()
        return status


def _explain(error: Exception) -> tuple[int, str]:
    """The exit status for an error, and its sentence."""
    match error:
        case Error():
            return error.exit_status, str(error)
        case OSError() if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            # What is written to files is told with their names: this is standard output.
            return 1, f"The output is incomplete: {error.strerror}."
        case OSError():
            where = "" if error.filename is None else f"{error.filename}: "
            return 1, f"{where}{error.strerror or error}."
        case MemoryError():
            return 4, "The host has no memory left for this."
        case _:
            what = f"{type(error).__name__}: {error}"
            return 1, f"Wirt made a mistake ({what}): run it again with --debug and report what it shows."


def top_parser() -> Parser:
    """Return the parser of the options that may stand before a command."""
    commands = "".join(f"\n  {command.name:<12} {command.summary}" for command in COMMANDS.values())
    parser = Parser(
        "wirt",
        "wirt [OPTION]... COMMAND [ARGUMENT]...",
        f"{_DESCRIPTION}\n\ncommands:{commands}",
        _EPILOG,
    )
    common = add_common_options(parser)
    common.add_argument("--version", action="store_true", help="show the version and leave")
    return parser


def _dispatch(words: Sequence[str]) -> int:
    # No option before the command takes a value, so that the first other word is the command.
    at = next((index for index, word in enumerate(words) if not word.startswith("-")), len(words))
    try:
        options = top_parser().parse(words[:at])
        status = _show_version() if options.version else _execute(words[:at], words[at:])
    except SystemExit as leave:
        # By argparse, after a help text.
        status = int(leave.code or 0)
    sys.stdout.flush()
    return status


def _execute(options: Sequence[str], words: Sequence[str]) -> int:
    if not words:
        raise UsageError(f"Say what to do: {', '.join(COMMANDS)}. See 'wirt --help'.")
    command = COMMANDS.get(words[0])
    if command is None:
        hint = suggestion(words[0], COMMANDS)
        raise UsageError(f"There is no command {words[0]!r}.{hint} See 'wirt --help'.")
    arguments = command.parser().parse([*options, *words[1:]])
    return command.load().execute(arguments)


def _show_version() -> int:
    from importlib import metadata

    try:
        print(f"wirt {metadata.version('wirt')}")
    except metadata.PackageNotFoundError:
        raise Error("Wirt is not installed here, so its version is not known: run 'make build'.") from None
    return 0


def _complain(sentence: str) -> None:
    with contextlib.suppress(OSError):
        print(f"wirt: {sentence}", file=sys.stderr, flush=True)


def _discard_unwritten_output() -> None:
    """Forget what standard output does not take: the interpreter would complain in its own words."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_standard_streams() -> list[str]:
    """Give closed standard streams /dev/null, lest a file that is opened later take their place; return their
    names. Writing to standard output still fails, or what somebody asked for would be lost in silence.
    """
    closed = []
    for fd, (name, mode) in enumerate(
        (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))
    ):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))
            closed.append(name)
    return closed
