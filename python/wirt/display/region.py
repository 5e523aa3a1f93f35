"""Parts of a screen: what a viewer has not seen yet."""

from __future__ import annotations

from typing import Final, NamedTuple, Self


class Area(NamedTuple):
    """A rectangle of pixels. An empty one has no width or no height."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height

    def within(self, other: Area) -> Area:
        """Return what both have in common."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Area(left, top, max(0, right - left), max(0, bottom - top))

    def around(self, other: Area) -> Area:
        """Return the smallest rectangle that holds both, neither of them empty."""
        left, top = min(self.left, other.left), min(self.top, other.top)
        return Area(left, top, max(self.right, other.right) - left, max(self.bottom, other.bottom) - top)

    def without(self, other: Area) -> list[Area]:
        """Return the parts that `other` does not cover."""
        hole = self.within(other)
        if not hole:
            return [self]
        parts = (
            Area(self.left, self.top, self.width, hole.top - self.top),
            Area(self.left, hole.bottom, self.width, self.bottom - hole.bottom),
            Area(self.left, hole.top, hole.left - self.left, hole.height),
            Area(hole.right, hole.top, self.right - hole.right, hole.height),
        )
        return [part for part in parts if part]

    def __bool__(self) -> bool:
        return self.width > 0 and self.height > 0


class Region:
    """Rectangles that do not overlap. Too many become one that is around them all."""

    MOST: Final = 64

    def __init__(self) -> None:
        self._areas: list[Area] = []

    def add(self, area: Area) -> None:
        """Add a rectangle."""
        if not area:
            return
        self._areas = [part for old in self._areas for part in old.without(area)]
        self._areas.append(area)
        if len(self._areas) > self.MOST:
            whole = self._areas[0]
            for other in self._areas:
                whole = whole.around(other)
            self._areas = [whole]

    def take(self, area: Area) -> list[Area]:
        """Remove what lies within `area`, and return it."""
        taken = [part for old in self._areas if (part := old.within(area))]
        self._areas = [part for old in self._areas for part in old.without(area)]
        return taken

    @classmethod
    def of(cls, area: Area) -> Self:
        """Return a region of one rectangle."""
        region = cls()
        region.add(area)
        return region
