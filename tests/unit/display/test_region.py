"""Parts of a screen, against sets of pixels."""

from hypothesis import given
from hypothesis import strategies as st

from wirt.display.region import Area, Region

areas = st.builds(Area, *[st.integers(0, 12)] * 4)


def pixels(area: Area) -> set[tuple[int, int]]:
    return {(x, y) for x in range(area.left, area.right) for y in range(area.top, area.bottom)}


@given(areas, areas)
def test_areas_are_sets_of_pixels(one: Area, other: Area) -> None:
    assert pixels(one.within(other)) == pixels(one) & pixels(other)
    assert bool(one) == bool(pixels(one))
    if one:
        parts = [pixels(part) for part in one.without(other)]
        assert set().union(*parts) == pixels(one) - pixels(other)
        assert sum(map(len, parts)) == len(pixels(one) - pixels(other))
    if one and other:
        assert pixels(one) | pixels(other) <= pixels(one.around(other))


@given(st.lists(st.tuples(areas, st.booleans()), max_size=30))
def test_regions_hold_what_was_added_and_not_taken(steps: list[tuple[Area, bool]]) -> None:
    region, expected = Region(), set[tuple[int, int]]()
    for area, add in steps:
        if add:
            region.add(area)
            expected |= pixels(area)
        else:
            taken = [pixels(part) for part in region.take(area)]
            assert set().union(*taken) == expected & pixels(area)
            assert sum(map(len, taken)) == len(expected & pixels(area))
            expected -= pixels(area)
    assert set().union(*map(pixels, region.take(Area(0, 0, 99, 99)))) == expected


def test_too_many_areas_become_one_around_them() -> None:
    region = Region()
    for number in range(Region.MOST + 1):
        region.add(Area(2 * number, number % 3, 1, 1))
    assert region.take(Area(0, 0, 999, 999)) == [Area(0, 0, 2 * Region.MOST + 1, 3)]
