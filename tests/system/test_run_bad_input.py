"""What cannot run is refused by `wirt run` in one sentence, with the status that says of which kind it is."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bare
from linux_guest import LINUX_GUEST
from wirt.machine import tiny

WIRT = [sys.executable, "-m", "wirt.cli", "run", "-q"]
END = "mov dx, 0xf4\n mov al, 3\n out dx, al"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with files of every bad kind and a good kernel that ends with status 7."""
    monkeypatch.chdir(tmp_path)
    Path("good").write_bytes(bare.multiboot(END))
    Path("text").write_text("hello\n" * 1000)
    Path("empty").touch()
    Path("folder").mkdir()
    os.mkfifo("fifo")
    for name, size in (("odd", 1_000_001), ("disk", 1 << 20), ("huge", 3 << 30)):
        with open(name, "wb") as file:
            file.truncate(size)
    return tmp_path


def refused(words: list[str], prefix: list[str] | None = None) -> tuple[int, str]:
    """Run `wirt run` with `words`; return its status and the sentence it says."""
    line = [*(prefix or []), *WIRT, *words]
    done = subprocess.run(
        line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == ""
    assert done.stderr.startswith("wirt: ")
    assert done.stderr.endswith(".\n")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ("--kernel none", 3, "The kernel none does not exist"),
        ("--kernel text", 1, "The kernel text is not a kernel"),
        ("--kernel empty", 1, "The kernel empty is empty"),
        ("--kernel folder", 2, "The kernel folder is a directory"),
        ("--kernel fifo", 2, "The kernel fifo is not a regular file"),
        ("--kernel good --initrd none", 3, "The initrd none does not exist"),
        ("--kernel good --initrd folder", 2, "The initrd folder is a directory"),
        ("--kernel good --initrd empty", 1, "The initrd empty is empty"),
        ("--kernel good --initrd huge", 1, "The initrd huge"),
        ("--kernel good -m 1M", 2, "give it 2 MiB or more"),
        ("--kernel good -c 0", 2, "A machine has 1 to 255 vCPUs, not 0"),
        ("--kernel good -c 256", 2, "A machine has 1 to 255 vCPUs, not 256"),
        ("--kernel good -m 0", 2, "0 bytes of memory are too little"),
        ("--kernel good -m 2000001", 2, "memory are no multiple of 4 KiB"),
        ("--kernel good -m 1.5G", 2, "'1.5G' is no size"),
        ("--kernel good -m 1P", 2, "'1P' is no size"),
        ("--kernel good -m 512T", 4, "more than this host has"),
        ("--kernel good -m 999999999999999999T", 4, "more than this host has"),
        ("--kernel good --disk none", 3, "The disk none does not exist"),
        ("--kernel good --disk folder", 2, "The disk folder is a directory"),
        ("--kernel good --disk empty", 1, "The disk empty is empty"),
        ("--kernel good --disk odd", 1, "The disk odd has 1000001 bytes"),
        ("--kernel good --disk /dev/null", 2, "The disk /dev/null is not a regular file"),
        ("--kernel good --disk disk --disk disk", 2, "The disks disk and disk are one file"),
        ("--kernel good --serial file:folder", 1, "The file folder, for the output of COM1, cannot be"),
        ("--kernel good --device floppy", 2, "There is no device 'floppy'"),
        ("windows", 2, "There is no built-in guest 'windows'"),
    ],
)
def test_it_is_refused(words: str, status: int, sentence: str) -> None:
    got, said = refused(words.split())
    assert sentence in said
    assert got == status


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("words", ["--disk disk,ro --disk disk,ro", "--disk disk", "-c 255"])
def test_what_makes_sense_is_not(words: str) -> None:
    line = [*WIRT, "--kernel", "good", "--device", "isa-debug-exit", *words.split()]
    assert subprocess.run(line, stdin=subprocess.DEVNULL, timeout=30, check=False).returncode == 7


class TestWithLinux:
    """Truncated images of a real kernel and its initrd."""

    pytestmark = LINUX_GUEST

    def test_a_truncated_kernel(self, directory: Path) -> None:
        kernel = tiny.ensure().kernel.read_bytes()
        for size, sentence in ((300_000, "is truncated"), (len(kernel) - 5000, "is truncated")):
            Path("short").write_bytes(kernel[:size])
            status, said = refused(["--kernel", "short"])
            assert (status, sentence in said) == (1, True), said

    @pytest.mark.parametrize("packed", [False, True])
    def test_a_truncated_initrd(self, directory: Path, packed: bool) -> None:
        guest = tiny.ensure()
        initrd = guest.initrd.read_bytes()
        whole = gzip.compress(initrd, 1) if packed else initrd
        Path("short").write_bytes(whole[: len(whole) // 2])
        status, said = refused(["--kernel", str(guest.kernel), "--initrd", "short"])
        assert (status, "The initrd short is truncated" in said) == (1, True), said

    def test_memory_that_the_kernel_or_the_initrd_does_not_fit_into(self, directory: Path) -> None:
        kernel = str(tiny.ensure().kernel)
        status, said = refused(["--kernel", kernel, "-m", "32M"])
        assert (status, "MiB or more" in said) == (2, True), said
        status, said = refused(["--kernel", kernel, "-m", "128M", "--initrd", "huge"])
        assert (status, "The initrd huge" in said) == (1, True), said

    def test_the_memory_that_is_advised_is_enough_to_run(self) -> None:
        status, said = refused(["-m", "32M", "--exec", "echo runs"])
        advice = re.search(r"give it (\d+) MiB or more\.$", said)
        assert status == 2 and advice is not None, said
        line = [*WIRT, "-m", f"{advice[1]}M", "--exec", "echo runs"]
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=100, check=False)
        assert (done.returncode, done.stdout) == (0, b"runs\n"), done.stderr

    def test_a_command_line_that_is_too_long(self, directory: Path) -> None:
        status, said = refused(["--kernel", str(tiny.ensure().kernel), "--append", "x" * 3000])
        assert (status, "this kernel takes at most 2047" in said) == (2, True), said


@pytest.fixture
def forbidden_kvm() -> list[str]:
    """What to put before a command for which /dev/kvm must not open."""
    script = (
        "mount -t tmpfs -o nodev none /mnt && mknod /mnt/kvm c 10 232 &&"
        ' mount --bind /mnt/kvm /dev/kvm && exec "$@"'
    )
    prefix = ["unshare", "-m", "sh", "-c", script, "sh"]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"hiding /dev/kvm takes root and a /dev/kvm: {error}")
    return prefix


@pytest.fixture
def busy_kvm(tmp_path: Path) -> list[str]:
    """What to put before a command for which KVM is there, but another hypervisor has the processor.

    KVM then answers EBUSY to KVM_CREATE_VM; here a library in front of the C library does.
    """
    (tmp_path / "busy.c").write_text(BUSY_KVM)
    command = ["gcc", "-shared", "-fPIC", "-O", "-o", "busy.so", "busy.c"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    return ["env", f"LD_PRELOAD={tmp_path / 'busy.so'}"]


BUSY_KVM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

static int kvm = -1;

static int open_as(const char *path, int flags, mode_t mode)
{
    static int (*next)(const char *, int, ...);
    if (!next)
        next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    if (strcmp(path, "/dev/kvm"))
        return next(path, flags, mode);
    return kvm = next("/dev/null", flags);
}

int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    return open_as(path, flags, va_arg(more, mode_t));
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    return open_as(path, flags, va_arg(more, mode_t));
}

int ioctl(int fd, unsigned long request, ...)
{
    static int (*next)(int, unsigned long, ...);
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    if (!next)
        next = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    if (fd != kvm || kvm < 0)
        return next(fd, request, argument);
    switch (request) {
    case 0xae00: return 12;            /* KVM_GET_API_VERSION */
    case 0xae03: return 1;             /* KVM_CHECK_EXTENSION */
    case 0xae04: return 3 * 4096;      /* KVM_GET_VCPU_MMAP_SIZE */
    case 0xae01: errno = EBUSY; return -1; /* KVM_CREATE_VM */
    default: errno = EINVAL; return -1;
    }
}
"""


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("options", ["-m 2G", "-m 64M -c 255"])
def test_limits_of_the_process(options: str) -> None:
    prefix = ["sh", "-c", 'ulimit -v 1000000; exec "$@"', "sh"]
    words = ["--accel", "recompiler", "--kernel", "good", *options.split()]
    status, said = refused(words, prefix)
    assert status == 4
    assert "This host has not enough for the machine (" in said
    assert "os error" not in said


@pytest.mark.usefixtures("directory")
def test_kvm_that_another_hypervisor_holds(busy_kvm: list[str]) -> None:
    status, said = refused(["--kernel", "good", "--accel", "kvm"], busy_kvm)
    assert status == 1
    assert "another hypervisor holds the processor's virtualization extensions: stop its machines" in said
    line = [*busy_kvm, *(word for word in WIRT if word != "-q"), "--kernel", "good"]
    done = subprocess.run(
        [*line, "--device", "isa-debug-exit"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 7
    assert done.stderr.startswith("wirt: accelerator recompiler: another hypervisor holds")


@pytest.mark.usefixtures("directory")
def test_kvm_without_permission(forbidden_kvm: list[str]) -> None:
    status, said = refused(["--kernel", "good", "--accel", "kvm"], forbidden_kvm)
    assert status == 1
    assert "/dev/kvm may not be opened: add this user to the group" in said


@pytest.mark.usefixtures("directory")
def test_without_permission_for_kvm_the_recompiler_is_chosen(forbidden_kvm: list[str]) -> None:
    words = ["--kernel", "good", "--device", "isa-debug-exit"]
    line = [*forbidden_kvm, *(word for word in WIRT if word != "-q"), *words]
    done = subprocess.run(
        line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 7
    assert done.stderr.startswith("wirt: accelerator recompiler: /dev/kvm may not be opened")
