"""The picture of class activation maps: a row for each image, a column for each budget."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from tapernet.measure.cam import ActivationMaps
from tapernet.measure.plot import picture_grid, save_figure
from tapernet.nn.net import budget_name

RIGHT, WRONG, UNKNOWN = "tab:green", "tab:red", "0.2"
STRENGTH = 0.45


def draw_maps(
    pictures: Tensor,
    found: Sequence[ActivationMaps],
    path: str | Path,
    *,
    class_names: Sequence[str],
    labels: Sequence[int | None] | None = None,
) -> None:
    """Writes the grid of the TESLA paper's Figures 5 and 6.

    The image comes first, under the name of its class if that is known; then for each budget the map laid over it,
    scaled from its least to its greatest value, under the name of the class predicted: green if that is right, red if
    it is wrong, grey if the class is not known.

    Args:
        pictures: as they are to be seen, shape (n, 1 or 3, height, width): uint8, or floating point in [0, 1].
        found: what `activation_maps` gave for them.
        path: the picture; any ending that matplotlib knows.
        class_names: of the network's outputs.
        labels: class of each image, None where it is not known.

    Raises:
        FileError: the picture cannot be written.
    """
    labels = [None] * len(pictures) if labels is None else labels
    figure, axes = picture_grid(len(pictures), 1 + len(found))
    for row, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        seen = picture.permute(1, 2, 0).numpy()
        for column, ax in enumerate(axes[row]):
            ax.imshow(seen, cmap="gray")
            ax.set(xticks=[], yticks=[])
            if column == 0:
                ax.set_title("" if label is None else class_names[label], fontsize=8)
                ax.set_xlabel("original" if row == len(pictures) - 1 else "", fontsize=8)
                continue
            at = found[column - 1]
            ax.imshow(_scaled(at.maps[row]).numpy(), cmap="jet", alpha=STRENGTH, vmin=0, vmax=1)
            predicted = int(at.predicted[row])
            colour = UNKNOWN if label is None else RIGHT if predicted == label else WRONG
            ax.set_title(class_names[predicted], fontsize=8, color=colour)
            for side in ax.spines.values():
                side.set(color=colour, linewidth=2)
            ax.set_xlabel(budget_name(at.budget) if row == len(pictures) - 1 else "", fontsize=8)
    save_figure(figure, path)


def _scaled(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else values * 0
