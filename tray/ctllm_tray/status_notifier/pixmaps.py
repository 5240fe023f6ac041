"""Images in the formats that D-Bus interfaces want them in."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

#: Width and height in pixels, for panels on screens of each resolution.
SIZES = (16, 22, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Pixmap:
    """An image of StatusNotifierItem: rows of ARGB32 in network byte order."""

    width: int
    height: int
    argb: bytes

    def to_struct(self) -> list[object]:
        """Return the struct `(iiay)`."""
        return [self.width, self.height, self.argb]


def make_pixmaps(image: Image.Image | None) -> tuple[Pixmap, ...]:
    """Return the image in each of `SIZES`; no pixmaps without an image."""
    if image is None:
        return ()
    image = image.convert("RGBA")
    return tuple(
        Pixmap(size, size, _to_argb(image.resize((size, size), Image.Resampling.LANCZOS)))
        for size in SIZES
    )


def _to_argb(image: Image.Image) -> bytes:
    red, green, blue, alpha = image.split()
    return Image.merge("RGBA", (alpha, red, green, blue)).tobytes()


def make_notification_image(image: Image.Image) -> list[object]:
    """Return the hint `image-data` of a notification, the struct `(iiibiiay)`."""
    image = image.convert("RGBA")
    width, height = image.size
    return [width, height, 4 * width, True, 8, 4, image.tobytes()]
