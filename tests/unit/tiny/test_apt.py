"""apt is played by small scripts here, so that its failures can be had at will."""

from pathlib import Path

import pytest

from wirt.machine.tiny.apt import Apt, AptError

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def ignore(step: str, fraction: float) -> None:
    pass


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def apt(tmp_path: Path) -> Apt:
    directory = tmp_path / "apt"
    directory.mkdir()
    return Apt(directory, ignore)


def test_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AptError, match="has no apt-get"):
        apt(tmp_path)


def test_no_network_is_told_with_apts_own_reason(tmp_path: Path, scripts: Path) -> None:
    script(scripts / "apt-get", "echo 'W: Failed to fetch x  Could not resolve.' >&2")
    script(scripts / "apt-cache", "echo 'E: No packages found' >&2; exit 100")
    client = apt(tmp_path)
    client.update()
    with pytest.raises(
        AptError, match=r"no package busybox-static \(Failed to fetch x Could not resolve\): check the net"
    ):
        client.candidate("busybox-static")


def show(sha256: str) -> str:
    return (
        f"cat <<'.'\nPackage: p\nVersion: 1:2\nDescription: d\n Version: 9\nSHA256: {sha256}\n\nPackage: q\n."
    )


def test_download_delivers_the_listed_version_and_tells_of_progress(tmp_path: Path, scripts: Path) -> None:
    script(scripts / "apt-cache", show(EMPTY_SHA256))
    script(
        scripts / "apt-get",
        "for option; do case $option in -oAPT::Status-Fd=*) fd=${option#*=}; fd=${fd#*=} ;; esac; done\n"
        'echo dlstatus:1:25.0:Retrieving >"/proc/self/fd/$fd"\n'
        '[ "$5" = p=1:2 ] && : >p_1%3a2_all.deb',
    )
    told: list[float] = []
    directory = tmp_path / "apt"
    directory.mkdir()
    client = Apt(directory, lambda step, fraction: told.append(fraction))
    (file,) = client.download([client.candidate("p")])
    assert file.name == "p_1%3a2_all.deb"
    assert 0.25 in told


def test_download_refuses_another_file_than_listed(tmp_path: Path, scripts: Path) -> None:
    script(scripts / "apt-cache", show(EMPTY_SHA256))
    script(scripts / "apt-get", "echo changed >p_1%3a2_all.deb")
    client = apt(tmp_path)
    with pytest.raises(AptError, match="is not what the signed package list names"):
        client.download([client.candidate("p")])


def test_download_that_fails(tmp_path: Path, scripts: Path) -> None:
    script(scripts / "apt-cache", show(EMPTY_SHA256))
    script(scripts / "apt-get", "echo 'E: Hash Sum mismatch' >&2; exit 100")
    client = apt(tmp_path)
    with pytest.raises(AptError, match=r"could not fetch p \(Hash Sum mismatch\)"):
        client.download([client.candidate("p")])


def test_directory_that_would_break_the_configuration(tmp_path: Path) -> None:
    directory = tmp_path / 'a"; Dir::Etc "/tmp'
    directory.mkdir(parents=True)
    with pytest.raises(AptError, match="quotation mark"):
        Apt(directory, ignore)
