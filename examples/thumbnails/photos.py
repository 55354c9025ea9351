"""Makes a folder of photographs to work on, from those that come inside scikit-image: nothing is downloaded.

    python -m examples.thumbnails.photos photos --count 200

There are a dozen; more come from cutting and mirroring them. The same count gives the same photographs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps
from skimage import data

NAMES = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
    "rocket",
)
WIDTH = 1600


def make_photos(folder: Path, count: int, width: int = WIDTH) -> None:
    """Write `count` photographs, `width` pixels wide, as `folder/NAME-NN.jpg`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, number, image in _variations(count):
        height = round(width * image.height / image.width)
        image.resize((width, height)).save(folder / f"{name}-{number:02}.jpg", quality=90)


def _variations(count: int) -> Iterator[tuple[str, int, Image.Image]]:
    originals = [(name, _original(name)) for name in NAMES[:count]]
    for i in range(count):
        number, which = divmod(i, len(originals))
        name, image = originals[which]
        yield name, number, _variation(image, number)


def _original(name: str) -> Image.Image:
    return Image.fromarray(getattr(data, name)()).convert("RGB")


def _variation(image: Image.Image, number: int) -> Image.Image:
    """Number 0 is the whole photograph; each other one shows another part of it, every second one mirrored."""
    if number == 0:
        return image
    share = 0.95 - 0.05 * (number % 8)
    width, height = round(image.width * share), round(image.height * share)
    left = (image.width - width) * (number % 3) // 2
    top = (image.height - height) * (number % 5) // 4
    part = image.crop((left, top, left + width, top + height))
    return ImageOps.mirror(part) if number % 2 else part


def main() -> None:
    """Make as many photographs as the command line says."""
    parser = argparse.ArgumentParser(description="Make a folder of photographs.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--width", type=int, default=WIDTH, help=f"in pixels ({WIDTH})")
    arguments = parser.parse_args()
    make_photos(arguments.folder, arguments.count, arguments.width)
    print(f"{arguments.count} photographs in {arguments.folder}")


if __name__ == "__main__":
    main()
