"""The picture of where MACs are spent: a row for each image, a column for each layer."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tapernet.measure.plot import picture_grid, save_figure


def draw_macs(pictures: Tensor, layers: Mapping[str, Tensor], together: Tensor, path: str | Path) -> None:
    """Writes the grid: the image, the map of each layer, that of all; black is nothing done, yellow everything.

    Above a map stands the share that is done in the whole of it.

    Args:
        pictures: as they are to be seen, shape (n, 1 or 3, height, width): uint8, or floating point in [0, 1].
        layers: shares of the MACs done at each place, from `mac_shares`.
        together: those of all layers, likewise.
        path: the picture; any ending that matplotlib knows.

    Raises:
        FileError: the picture cannot be written.
    """
    columns = {**layers, "all": together}
    figure, axes = picture_grid(len(pictures), 1 + len(columns))
    for row, picture in enumerate(pictures):
        shown = [("image", picture.permute(1, 2, 0)), *((name, shares[row]) for name, shares in columns.items())]
        for ax, (name, values) in zip(axes[row], shown, strict=True):
            ax.set(xticks=[], yticks=[])
            if row == len(pictures) - 1:
                ax.set_xlabel(name, fontsize=8)
            if name == "image":
                ax.imshow(values.numpy(), cmap="gray")
            else:
                ax.imshow(values.numpy(), cmap="inferno", vmin=0, vmax=1)
                ax.set_title(f"{values.mean():.0%}", fontsize=8)
    save_figure(figure, path)
