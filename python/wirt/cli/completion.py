"""`wirt completion`: completion scripts for shells, made from the commands' own parsers."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

USAGE: Final = "wirt completion bash|zsh|fish"

DESCRIPTION: Final = "Prints the script by which a shell completes wirt's commands and options."

EPILOG: Final = """\
examples:
  bash  wirt completion bash >~/.local/share/bash-completion/completions/wirt
  zsh   wirt completion zsh >~/.zfunc/_wirt      with ~/.zfunc in fpath
  fish  wirt completion fish >~/.config/fish/completions/wirt.fish"""


class Option(NamedTuple):
    """An option of a command, or its first argument where `names` is empty.

    `values` are the words it takes, empty where it takes another (`takes_value`) or none; `file`: that one
    names a file.
    """

    names: tuple[str, ...]
    help: str
    takes_value: bool
    values: tuple[str, ...]
    file: bool


Commands = dict[str, tuple[str, list[Option]]]
"""What each command does, and its options."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `wirt completion`."""
    group = parser.add_argument_group("shell")
    group.add_argument("shell", choices=tuple(_SCRIPTS), metavar="bash|zsh|fish", help="which shell's script")


def execute(arguments: argparse.Namespace) -> int:
    """Print the script."""
    print(_SCRIPTS[arguments.shell](_commands()), end="")
    return 0


def _commands() -> Commands:
    """The commands by name: what each does, and its options."""
    from wirt.cli.commands import COMMANDS

    return {
        command.name: (command.summary, list(_options(command.parser()))) for command in COMMANDS.values()
    }


def _options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    for action in parser._actions:
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if action.choices is not None:
            values = tuple(str(choice) for choice in action.choices)
        elif metavar[:1].islower():
            # In lower case it is the words themselves, as far as they are always the same.
            values = tuple(word.removesuffix("FILE") for word in metavar.split("|"))
        else:
            values = ()
        yield Option(
            names=tuple(action.option_strings),
            help=action.help or "",
            takes_value=action.nargs != 0,
            values=values,
            file=metavar.startswith("FILE"),
        )


def _bash(commands: Commands) -> str:
    values, words = [], [f"        '') words={shlex.quote(' '.join((*commands, '--version', '--help')))} ;;"]
    for command, (_, options) in commands.items():
        first = [word for option in options if not option.names for word in option.values]
        names = [name for option in options for name in option.names]
        words.append(f"        {command}) words={shlex.quote(' '.join(first + names))} ;;")
        for option in options:
            if not option.names or not option.takes_value:
                continue
            pattern = " | ".join(f"{command}:{name}" for name in option.names)
            words_of_value = shlex.quote(" ".join(option.values))
            generate = "-f" if option.file else f"-W {words_of_value}"
            values.append(
                f'        {pattern}) mapfile -t COMPREPLY < <(compgen {generate} -- "$word"); return ;;'
            )
    return _BASH.format(values="\n".join(values), words="\n".join(words))


def _zsh(commands: Commands) -> str:
    described = " ".join(shlex.quote(f"{name}:{summary}") for name, (summary, _) in commands.items())
    cases = []
    for command, (_, options) in commands.items():
        specs = " ".join(_zsh_spec(option) for option in options)
        cases.append(f"        {command}) _arguments -s {specs} ;;")
    return _ZSH.format(commands=described, cases="\n".join(cases))


def _zsh_spec(option: Option) -> str:
    """What zsh's _arguments takes for the option."""
    action = "_files" if option.file else f"({' '.join(option.values)})" if option.values else " "
    if not option.names:
        return shlex.quote(f"1:{_zsh_text(option.help)}:{action}")
    names = f"{{{','.join(option.names)}}}" if len(option.names) > 1 else option.names[0]
    value = f":value:{action}" if option.takes_value else ""
    return f"'*'{names}{shlex.quote(f'[{_zsh_text(option.help)}]{value}')}"


def _zsh_text(text: str) -> str:
    return re.sub(r"([\\\[\]:])", r"\\\1", text)


def _fish(commands: Commands) -> str:
    lines = ["complete -c wirt -f"]
    for command, (summary, options) in commands.items():
        quoted = shlex.quote(summary)
        lines.append(f"complete -c wirt -n __fish_use_subcommand -a {command} -d {quoted}")
        for option in options:
            line = f"complete -c wirt -n '__fish_seen_subcommand_from {command}'"
            for name in option.names:
                line += f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}"
            if option.takes_value and option.names:
                line += " -r -F" if option.file else " -x"
            if option.values:
                line += f" -a {shlex.quote(' '.join(option.values))}"
            lines.append(f"{line} -d {shlex.quote(option.help)}")
    return "\n".join(lines) + "\n"


_BASH: Final = """\
_wirt() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} command='' words at
    for ((at = 1; at < COMP_CWORD; at++)); do
        [[ ${{COMP_WORDS[at]}} == -* ]] || {{ command=${{COMP_WORDS[at]}}; break; }}
    done
    case $command:$previous in
{values}
    esac
    case $command in
{words}
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}}
complete -o default -F _wirt wirt
"""

_ZSH: Final = """\
#compdef wirt
_wirt() {{
    local -a commands=({commands})
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{cases}
    esac
}}
_wirt "$@"
"""

_SCRIPTS: Final[dict[str, Callable[[Commands], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
