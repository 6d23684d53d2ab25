"""Animations: pictures that move, as GIF files that loop."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["animation"]

_SIDE = 640  # pixels, about, of the picture
_LIMIT = 2_000_000  # bytes
_GREYS, _COLOURS = 16, 64
_STEP, _REST = 80, 800  # milliseconds that a frame is seen; the first and the last longer
_LINE = 24  # pixels of a line of text


def animation(frames: Tensor, title: str, names: Sequence[str] = ()) -> Callable[[Path], None]:
    """A function that writes panels of images that go forth and back, for ever, as a GIF below 2 MB, to a path.

    Args:
        frames: values in [0, 1], ink 1 if there is one channel, `(T, rows, columns, C, H, W)`.
        title: what stands above.
        names: what stands above each panel, row after row; unless given, nothing does.

    Raises:
        ValueError: for images of other than 1 or 3 channels.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     animation(torch.rand(5, 1, 2, 1, 8, 8), "means of p(x | z)")(Path(folder) / "two.gif")
        ...     with Image.open(Path(folder) / "two.gif") as picture:
        ...         picture.n_frames, picture.info["loop"]
        (8, 0)
    """
    if frames.shape[3] not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {frames.shape[3]}")
    x = frames.detach().cpu().float().clamp(0, 1).numpy()
    x = np.concatenate([x, x[-2:0:-1]])  # forth and back

    def save(path: Path) -> None:
        path.write_bytes(_small_enough(1 - x if x.shape[3] == 1 else x, title, names))

    return save


def _small_enough(x: np.ndarray, title: str, names: Sequence[str]) -> bytes:
    """The GIF in as large pixels as go, and with as many of the frames."""
    zoom = max(_SIDE // max((x.shape[1] * (x.shape[4] + 1)), x.shape[2] * (x.shape[5] + 1)), 1)
    while True:
        rest = {0: _REST, len(x) // 2: _REST}
        pictures = [_picture(frame, zoom, title, names) for frame in x]
        written = io.BytesIO()
        duration = [rest.get(i, _STEP) for i in range(len(x))]
        pictures[0].save(written, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
        if written.tell() < _LIMIT or len(x) <= 2:
            return written.getvalue()
        zoom, x = (zoom - 1, x) if zoom > 1 else (1, x[::2])


def _picture(panels: np.ndarray, zoom: int, title: str, names: Sequence[str]) -> Image.Image:
    """A frame of panels `(rows, columns, C, H, W)`, with lines of white between them, each pixel enlarged."""
    rows, columns, channels = panels.shape[:3]
    tiles = panels.repeat(zoom, 3).repeat(zoom, 4)
    above = _LINE if names else zoom
    tiles = np.pad(tiles, [(0, 0)] * 3 + [(above, 0), (zoom, 0)], constant_values=1)
    height, width = tiles.shape[3:]
    picture = tiles.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    font = ImageFont.load_default(18)
    needed = int(max(font.getlength(title) + 2 * zoom, columns * width + zoom))
    picture = np.pad(picture, [(_LINE, zoom), (0, needed - columns * width), (0, 0)], constant_values=1)
    if channels == 1:
        picture = (picture[..., 0] * (_GREYS - 1)).round() / (_GREYS - 1)  # few greys make small files
    image = Image.fromarray((picture * 255).round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.text((zoom, 0), title, fill=0, font=font)
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        draw.text((column * width + zoom, _LINE + row * height), name, fill=0, font=font)
    return image if channels == 1 else image.quantize(_COLOURS)
