"""Packages from the distribution's archive, fetched and verified by apt, without root.

apt works here on a directory of its own, with the machine's sources and keys. It takes no file that does not
follow from a list signed with one of them. What it delivers is compared with that list's SHA-256 once more.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wirt.machine.tiny.digest import sha256
from wirt.machine.tiny.progress import Progress

_CONFIGURATION = """\
#clear APT::Architectures;
#clear APT::Update;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::Languages {{ "none"; }};
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Dir::State "{directory}/state";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache";
Dir::Log "{directory}";
"""


class AptError(RuntimeError):
    """apt is missing or could not do it. The message is one sentence."""


class Package(NamedTuple):
    """A version of a package as the signed lists name it, with its `Depends` field and its file's SHA-256."""

    name: str
    version: str
    depends: str
    sha256: str


class Apt:
    """apt with its state in `directory`, which has to exist and may be deleted at any later time."""

    def __init__(self, directory: Path, progress: Progress) -> None:
        if shutil.which("apt-get") is None:
            raise AptError(
                "The tiny guest is made of Debian packages, and this machine has no apt-get to fetch them: "
                "name a kernel and an initrd of your own instead."
            )
        if any(character in '"\n' for character in str(directory)):
            raise AptError(
                f"apt cannot work in the directory {directory}: its name has a quotation mark or line feed."
            )
        self._directory = directory
        self._progress = progress
        self._update_errors = ""
        for name in ("state/lists/partial", "cache/archives/partial", "packages"):
            (directory / name).mkdir(parents=True)
        (directory / "status").touch()
        (directory / "apt.conf").write_text(_CONFIGURATION.format(directory=directory))

    def update(self) -> None:
        """Fetch the package lists. A source that fails matters only if a package cannot be had without it."""
        result = self._run("Fetching package lists", ["apt-get", "update"])
        self._update_errors = result.stderr

    def candidate(self, name: str) -> Package:
        """Return the version of the package `name` that apt would install. Raises AptError."""
        result = self._run("Reading package lists", ["apt-cache", "show", "--no-all-versions", name])
        fields = _fields(result.stdout)
        try:
            return Package(fields["Package"], fields["Version"], fields.get("Depends", ""), fields["SHA256"])
        except KeyError:
            reason = _first_complaint(self._update_errors) or _first_complaint(result.stderr)
            raise AptError(
                f"apt offers no package {name} ({reason}): "
                "check the network, and that apt's sources are Debian's."
            ) from None

    def download(self, packages: Sequence[Package]) -> list[Path]:
        """Fetch `packages`; return their files in the same order. Raises AptError if one is not as listed."""
        target = self._directory / "packages"
        wanted = [f"{package.name}={package.version}" for package in packages]
        result = self._run("Fetching packages", ["apt-get", "download", *wanted], target)
        if result.returncode != 0:
            raise AptError(
                f"apt could not fetch {' and '.join(package.name for package in packages)} "
                f"({_first_complaint(result.stderr)}): check the network, then try again."
            )
        files = []
        for package in packages:
            (file,) = target.glob(f"{package.name}_*.deb")
            if sha256(file) != package.sha256:
                raise AptError(f"{file.name} is not what the signed package list names: try again.")
            files.append(file)
        return files

    def _run(
        self, step: str, command: list[str], directory: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run an apt program in `directory`, passing on its progress (apt's README.progress-reporting)."""
        program, *arguments = command
        status, status_writer = os.pipe()
        options = [f"-c={self._directory}/apt.conf", f"-oAPT::Status-Fd={status_writer}", "-q"]
        environment = os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        self._progress(step, 0.0)
        with (
            tempfile.TemporaryFile("w+") as output,
            tempfile.TemporaryFile("w+") as errors,
            open(status) as reports,
        ):
            try:
                process = subprocess.Popen(
                    [program, *options, *arguments],
                    cwd=directory or self._directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    pass_fds=[status_writer],
                )
            finally:
                os.close(status_writer)
            with process:
                for report in reports:
                    kind, *fields = report.split(":")
                    if kind == "dlstatus" and len(fields) >= 2:
                        self._progress(step, _fraction(fields[1]))
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(command, process.returncode, output.read(), errors.read())


def _fraction(percent: str) -> float:
    try:
        return min(max(float(percent) / 100, 0.0), 1.0)
    except ValueError:
        return 0.0


def _fields(stanza: str) -> dict[str, str]:
    """Return the fields of the first stanza of a Debian control file (deb822(5)), each one's first line."""
    fields: dict[str, str] = {}
    for line in stanza.partition("\n\n")[0].splitlines():
        name, separator, value = line.partition(": ")
        if separator and not line[0].isspace():
            fields[name] = value.strip()
    return fields


def _first_complaint(stderr: str) -> str:
    """Return apt's first error, or else its first warning, without the letter in front and the full stop."""
    lines = stderr.splitlines()
    for severity in ("E: ", "W: "):
        for line in lines:
            if line.startswith(severity):
                return " ".join(line[len(severity) :].split()).rstrip(".")
    return "no reason given"
