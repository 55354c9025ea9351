"""Handlers that make a thumbnail of a photograph, and one sheet of all thumbnails.

A task may run again after a crash, so each handler writes the same file again and puts it into place in one step: a
kill leaves the old file, the new one or none, never half of one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict

from PIL import Image, ImageOps, UnidentifiedImageError

from jobpipe import App, Context, Fail

SIZE = 256
GAP = 8

app = App()


class Picture(TypedDict):
    """What became of a task: its result."""

    path: str
    width: int
    height: int


@app.handler(timeout=60)
def thumbnail(photo: str, folder: str, ctx: Context, size: int = SIZE) -> Picture:
    """Make `folder/NAME.jpg` of a photograph, at most `size` pixels wide and high."""
    source = Path(photo)
    try:
        with Image.open(source) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise Fail(f"{source.name} is no image") from error  # trying again would not help
    small.thumbnail((size, size))
    ctx.log.info("%s: %d x %d", source.name, small.width, small.height)
    return _saved(small, Path(folder) / f"{source.stem}.jpg")


@app.handler(timeout=300)
def contact_sheet(folder: str, sheet: str, columns: int = 8, size: int = SIZE) -> Picture:
    """Put all thumbnails of `folder` on one sheet, in the order of their names."""
    files = sorted(Path(folder).glob("*.jpg"))
    if not files:
        raise Fail(f"no thumbnails in {folder}")
    cell = size + GAP
    rows = -(-len(files) // columns)
    paper = Image.new("RGB", (columns * cell + GAP, rows * cell + GAP), "white")
    for number, file in enumerate(files):
        row, column = divmod(number, columns)
        with Image.open(file) as image:
            left = GAP + column * cell + (size - image.width) // 2
            top = GAP + row * cell + (size - image.height) // 2
            paper.paste(image, (left, top))
    return _saved(paper, Path(sheet))


def _saved(image: Image.Image, target: Path) -> Picture:
    """Write beside the target, then rename: on one file system that is a single step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as file:
        image.save(file, "JPEG", quality=85)
        file.flush()
        os.fsync(file.fileno())  # the task will count as done: its file must survive a power cut as well
    part.replace(target)
    return {"path": str(target), "width": image.width, "height": image.height}
