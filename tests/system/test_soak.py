"""Programs in Debian's guest against the same programs on the host: BusyBox's shell, awk, sort, gzip and
others, with many processes and copy-on-write between them, must print the same, byte for byte.

`WIRT_SOAK_ROUNDS` sets the number of machines: the long run after changes of the recompiler.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import wirt
from linux_guest import LINUX_GUEST
from wirt.machine import tiny
from wirt.machine.tiny import deb

pytestmark = LINUX_GUEST

ROUNDS = int(os.environ.get("WIRT_SOAK_ROUNDS", "2"))

SCRIPT = r"""
seed={seed}
awk -v seed=$seed 'BEGIN {{
    for (i = 0; i < 3000; i++) {{
        seed = (seed * 16807) % 2147483647
        printf "%d %s word%d %.6f\n", seed, substr("abcdefghijklmnop", seed % 16 + 1), i % 97, seed / (i + 1)
    }}
}}' >lines
sha256sum lines
sort lines >sorted; sort -n -k1 lines | md5sum; sort -r -k2 lines | uniq -c | sha512sum
gzip -9 <lines >z; gunzip <z | cmp - lines; sha1sum z
bzip2 <lines >b; bunzip2 <b | cmp - lines; sha1sum b
sed -e 's/word\([0-9]*\)/[\1]/' -e '/\[4\]/d' lines | tr 'a-m' 'n-z' | cut -d' ' -f1-3 | md5sum
awk '{{ count[$3]++; sum[$3] += $1 }} END {{ for (w in sum) print w, count[w], sum[w] }}' lines |
    sort | md5sum
x=parent; long=; for i in 1 2 3 4 5 6 7 8; do long="$long$x$i$long"; done
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
    ( x=child$i; long="$i$long"; echo "$x ${{#long}} $(echo "$long" | md5sum)" ) >out.$i &
done
wait
cat out.1 out.2 out.3 out.4 out.5 out.6 out.7 out.8 out.9 out.10 out.11 out.12; echo "$x ${{#long}}"
i=0; while [ $i -lt 40 ]; do
    i=$((i + 1)); line=$(sed -n "${{i}}p" lines); set -- $line; a="$a $(printf %x $(($1 ^ i)))"
done; echo "$a" | fold -w 50
mkdir -p d; for i in 1 2 3 4 5 6 7 8 9; do mkdir d/$i; head -n ${{i}}0 lines >d/$i/f; done
find d -type f | sort | xargs -n 2 wc -l; tar -cf - $(find d -type f | sort) | tar -xOf - | md5sum
awk 'BEGIN {{ while (("echo one; echo two" | getline l) > 0) n = n l; print n
    for (i = 0; i < 30; i++) {{ c = "expr " i " + " i; c | getline r; close(c); t += r }} print t }}'
od -A d -t x1 z | tail -n 3; dd if=sorted bs=777 skip=3 count=20 2>/dev/null | hexdump -C | sha256sum
echo "scale=60; 4*a(1)" | bc -l
rm -rf lines sorted z b d out.*
"""


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the guest's own BusyBox, and its commands as links."""
    guest = tiny.ensure()
    (package,) = guest.kernel.parent.glob("busybox-static_*.deb")
    ((_, content),) = deb.extract(package, lambda name: name.endswith("bin/busybox"), 1 << 24).items()
    directory = tmp_path_factory.mktemp("busybox")
    program = directory / "busybox"
    program.write_bytes(content)
    program.chmod(0o755)
    subprocess.run([program, "--install", "-s", directory], check=True)
    return directory


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_programs_print_what_they_print_on_the_host(number: int, busybox: Path, tmp_path: Path) -> None:
    script = SCRIPT.format(seed=1000003 * (number + 1))
    environment = {"PATH": str(busybox), "LC_ALL": "C"}
    shell = [busybox / "busybox", "sh", "-c", script]
    expected = subprocess.run(
        shell, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert not expected.stderr
    cpu = ("host", "x86-64-v2", "x86-64-v3")[number % 3]
    try:
        vm = wirt.VM("tiny", cpu=cpu, cpus=1 + number % 2, accel="recompiler", memory="256M")
    except wirt.Error as error:
        pytest.skip(str(error))
    with vm:
        for _ in range(4):
            done = vm.exec(f"mkdir -p /tmp/soak && cd /tmp/soak || exit 9\n{script}", 120)
            assert done.stdout == expected.stdout
            assert done.returncode == 0
