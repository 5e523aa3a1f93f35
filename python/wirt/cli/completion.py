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

    `values` are the words it takes, empty where it takes another (`takes_value`) or none; one that ends with
    a colon goes on with a file's name. `file`: the value is a file's name.
    """

    names: tuple[str, ...]
    help: str
    takes_value: bool
    values: tuple[str, ...]
    file: bool


class Words(NamedTuple):
    """What may follow `wirt`: options of its own, and the commands with what each does and its options."""

    options: list[Option]
    commands: dict[str, tuple[str, list[Option]]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `wirt completion`."""
    group = parser.add_argument_group("shell")
    group.add_argument("shell", choices=tuple(_SCRIPTS), metavar="bash|zsh|fish", help="which shell's script")


def execute(arguments: argparse.Namespace) -> int:
    """Print the script."""
    print(_SCRIPTS[arguments.shell](_words()), end="")
    return 0


def _words() -> Words:
    from wirt.cli.commands import COMMANDS
    from wirt.cli.entry import top_parser

    commands = {
        command.name: (command.summary, list(_options(command.parser()))) for command in COMMANDS.values()
    }
    return Words(list(_options(top_parser())), commands)


def _options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    for action in parser._actions:
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if action.choices is not None:
            values = tuple(str(choice) for choice in action.choices)
        elif metavar[:1].islower():
            # In lower case it is the words themselves, as far as they are always the same.
            values = tuple(word.removesuffix("FILE").removesuffix("PORT") for word in metavar.split("|"))
        else:
            values = ()
        yield Option(
            names=tuple(action.option_strings),
            help=action.help or "",
            takes_value=action.nargs != 0,
            values=values,
            file=metavar.startswith("FILE"),
        )


def _bash(words: Words) -> str:
    top = [*words.commands, *(name for option in words.options for name in option.names)]
    cases = [f"        '') words={shlex.quote(' '.join(top))} ;;"]
    values = []
    for command, (_, options) in words.commands.items():
        first = [word for option in options if not option.names for word in option.values]
        names = [name for option in options for name in option.names]
        cases.append(f"        {command}) words={shlex.quote(' '.join(first + names))} ;;")
        for option in options:
            if not option.names or not option.takes_value:
                continue
            pattern = " | ".join(f"{command}:{name}" for name in option.names)
            taken = "_wirt_files" if option.file else f"_wirt_words {shlex.quote(' '.join(option.values))}"
            values.append(f"        {pattern}) {taken}; return ;;")
            # Readline takes the colon for a word, and what follows it for another.
            prefixes = [value for value in option.values if value.endswith(":")]
            values += [f"        {command}:{prefix}) _wirt_files; return ;;" for prefix in prefixes]
    return _BASH.format(values="\n".join(values), words="\n".join(cases))


def _zsh(words: Words) -> str:
    described = " ".join(shlex.quote(f"{name}:{summary}") for name, (summary, _) in words.commands.items())
    cases = []
    for command, (_, options) in words.commands.items():
        specs = " ".join(_zsh_spec(option) for option in options)
        cases.append(f"        {command}) _arguments -s {specs} ;;")
    top = " ".join(_zsh_spec(option) for option in words.options)
    return _ZSH.format(commands=described, top=top, cases="\n".join(cases))


def _zsh_spec(option: Option) -> str:
    """What zsh's _arguments takes for the option."""
    action = "_files" if option.file else _zsh_values(option.values) if option.values else " "
    if not option.names:
        return shlex.quote(f"1:{_zsh_text(option.help)}:{action}")
    # Behind "=" as well where a value follows a long name.
    names = [f"{name}=" if option.takes_value and name.startswith("--") else name for name in option.names]
    listed = f"{{{','.join(names)}}}" if len(names) > 1 else names[0]
    value = f":value:{action}" if option.takes_value else ""
    return f"'*'{listed}{shlex.quote(f'[{_zsh_text(option.help)}]{value}')}"


def _zsh_values(values: tuple[str, ...]) -> str:
    prefixes = [value for value in values if value.endswith(":")]
    others = [value for value in values if value not in prefixes]
    if not prefixes:
        return f"({' '.join(values)})"
    return f" _wirt_or_file {_zsh_text(prefixes[0])} {' '.join(others)}"


def _zsh_text(text: str) -> str:
    return re.sub(r"([\\\[\]:])", r"\\\1", text)


def _fish(words: Words) -> str:
    lines = [_FISH, "complete -c wirt -f"]
    lines += [_fish_line("__fish_use_subcommand", option) for option in words.options]
    for command, (summary, options) in words.commands.items():
        quoted = shlex.quote(summary)
        lines.append(f"complete -c wirt -n __fish_use_subcommand -a {command} -d {quoted}")
        lines += [_fish_line(f"'__fish_seen_subcommand_from {command}'", option) for option in options]
    return "\n".join(lines) + "\n"


def _fish_line(condition: str, option: Option) -> str:
    values = [f"(__wirt_or_file {word})" if word.endswith(":") else word for word in option.values]
    line = f"complete -c wirt -n {condition}"
    for name in option.names:
        line += f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}"
    if option.takes_value and option.names:
        line += " -r -F" if option.file else " -x"
    if values:
        line += f" -a {shlex.quote(' '.join(values))}"
    return f"{line} -d {shlex.quote(option.help)}"


_BASH: Final = """\
_wirt_words() {{
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$word")
    if [[ ${{COMPREPLY-}} == *: ]]; then compopt -o nospace 2>/dev/null; fi
}}
_wirt_files() {{
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
}}
_wirt() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} command='' words at left
    for ((at = 1; at < COMP_CWORD; at++)); do
        [[ ${{COMP_WORDS[at]}} == -* ]] || {{ command=${{COMP_WORDS[at]}}; break; }}
    done
    # "=" and ":" are words of their own: --option = value, file : name.
    left=$((COMP_CWORD - 1))
    if [[ $word == [=:] ]]; then word=''; left=$COMP_CWORD; fi
    if [[ ${{COMP_WORDS[left]}} == = ]]; then ((left--)); fi
    local previous=${{COMP_WORDS[left]}}
    if [[ $previous == : ]]; then previous=${{COMP_WORDS[left - 1]}}:; fi
    case $command:$previous in
{values}
    esac
    case $command in
{words}
    esac
    _wirt_words "$words"
}}
complete -F _wirt wirt
"""

_ZSH: Final = """\
#compdef wirt
_wirt_or_file() {{
    if compset -P "$1"; then
        _files
    else
        compadd -- "${{@:2}}"
        compadd -S '' -- "$1"
    fi
}}
_wirt() {{
    local -a commands=({commands})
    local context state state_descr line
    typeset -A opt_args
    _arguments -s -C {top} '1:command:->command' '*::argument:->argument'
    case $state in
        command) _describe command commands; return ;;
        argument) ;;
        *) return ;;
    esac
    case $line[1] in
{cases}
    esac
}}
_wirt "$@"
"""

_FISH: Final = """\
function __wirt_or_file
    set -l word (commandline -ct | string replace -r '^--[^=]*=' '')
    if string match -q -- "$argv[1]*" $word
        set -l file (string replace -- $argv[1] '' $word)
        printf "$argv[1]%s\\n" (__fish_complete_path $file)
    else
        echo $argv[1]
    end
end"""

_SCRIPTS: Final[dict[str, Callable[[Words], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
