"""The file of a firmware's variables."""

import os
from pathlib import Path

import pytest

import wirt
from wirt.storage.nvram import open_variables


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "template"
    path.write_bytes(b"empty" * 100)
    return path


def test_made_from_the_template_and_kept(tmp_path: Path, template: Path) -> None:
    path = tmp_path / "vars"
    fd = open_variables(path, template)
    assert os.pread(fd, 1000, 0) == b"empty" * 100
    os.pwrite(fd, b"mine!", 0)
    os.close(fd)
    fd = open_variables(path, template)
    assert os.pread(fd, 5, 0) == b"mine!"
    os.close(fd)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["template", "vars"]


def test_without_a_path_in_memory(template: Path) -> None:
    fd = open_variables(None, template)
    assert os.fstat(fd).st_size == 500
    os.close(fd)


def test_refusals_in_a_sentence(tmp_path: Path, template: Path) -> None:
    path = tmp_path / "vars"
    path.write_bytes(b"short")
    with pytest.raises(wirt.Error, match="has 5 bytes, this firmware's have 500"):
        open_variables(path, template)
    path.unlink()
    fd = open_variables(path, template)
    with pytest.raises(wirt.Error, match="in use by another machine"):
        open_variables(path, template)
    os.close(fd)
    with pytest.raises(wirt.Error, match="cannot be opened"):
        open_variables(tmp_path / "none" / "vars", template)
    with pytest.raises(wirt.Error, match="cannot be read"):
        open_variables(path, tmp_path / "none")
