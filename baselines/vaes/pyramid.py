"""The convolutions that FSVAE, ESVAE and their ANN twin have in common. Not a system.

Every level halves the picture with a 3x3 convolution of stride 2, and the way back doubles it
with transposed ones, down to 2 x 2 pixels: four levels for 28 and 32 pixels, five for 64, two
for 8. If a level has an odd size (28 -> 14 -> 7 -> 4 -> 2), its transposed convolution has no
output padding. So the way back has exactly the sizes of the way down, and every layer has the
same weights as at 32 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sddpm.layers import Reads, declare
from sddpm.protocol import ImageShape


@dataclass(frozen=True)
class Pyramid:
    """Sizes and widths of every level; build it with :meth:`of`."""

    image_channels: int
    sizes: tuple[int, ...]
    """Side in pixels, from the image's to 2."""
    widths: tuple[int, ...]
    """Channels after each convolution on the way down; one fewer than ``sizes``."""

    @classmethod
    def of(cls, shape: ImageShape, channels: int) -> Pyramid:
        """The pyramid for images of ``shape``: ``channels`` at the first level, then doubling.

        Raises:
            ValueError: the images are smaller than 4 pixels.
        """
        if shape.size < 4:
            raise ValueError(f"image size {shape.size}: expected at least 4 pixels")
        sizes = [shape.size]
        while sizes[-1] > 2:
            sizes.append((sizes[-1] + 1) // 2)
        widths = [channels << level for level in range(len(sizes) - 1)]
        return cls(shape.channels, tuple(sizes), tuple(widths))

    @property
    def features(self) -> int:
        """Values at the 2 x 2 level."""
        return self.widths[-1] * self.sizes[-1] ** 2

    def down(self, reads: Reads) -> list[nn.Conv2d]:
        """The convolutions on the way down; the first reads the image, the others ``reads``."""
        inputs = (self.image_channels, *self.widths[:-1])
        layers = [nn.Conv2d(i, o, 3, 2, 1) for i, o in zip(inputs, self.widths, strict=True)]
        return [declare(layer, reads=reads if n else "real") for n, layer in enumerate(layers)]

    def up(self, reads: Reads) -> list[nn.ConvTranspose2d]:
        """The transposed convolutions on the way up; the last keeps its width."""
        inputs = self.widths[::-1]
        outputs = (*inputs[1:], inputs[-1])
        layers = []
        for level, (width, out) in enumerate(zip(inputs, outputs, strict=True), start=2):
            padding = self.sizes[-level] - (2 * self.sizes[1 - level] - 1)
            layers.append(nn.ConvTranspose2d(width, out, 3, 2, 1, padding))
        return [declare(layer, reads=reads) for layer in layers]

    def last(self, reads: Reads) -> nn.ConvTranspose2d:
        """The transposed convolution to the image's channels, at the image's size."""
        return declare(
            nn.ConvTranspose2d(self.widths[0], self.image_channels, 3, 1, 1), reads=reads
        )
