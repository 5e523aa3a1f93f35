"""Which place of the IDE channels each drive gets."""

import pytest

import wirt
from wirt.machine.drives import ide_places, scsi_targets


@pytest.mark.parametrize(
    ("disks", "cdroms", "places"),
    [
        (0, 0, ((), ())),
        (1, 1, ((0,), (2,))),
        (1, 3, ((0,), (1, 2, 3))),
        (3, 1, ((0, 1, 2), (3,))),
        (0, 4, ((), (0, 1, 2, 3))),
        (4, 0, ((0, 1, 2, 3), ())),
    ],
)
def test_cdroms_prefer_the_secondary_channel(
    disks: int, cdroms: int, places: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    assert ide_places(disks, cdroms) == places


def test_a_fifth_is_refused() -> None:
    with pytest.raises(wirt.UsageError, match="room for 4 drives, not 5"):
        ide_places(2, 3)


def test_a_scsi_host_has_256_targets() -> None:
    scsi_targets(256)
    with pytest.raises(wirt.UsageError, match="room for 256 drives, not 257"):
        scsi_targets(257)
