"""Time of Algorithm 1 when every trial runs everything, and when it is guessed and checked; the answers must be equal.

python benchmarks/placement.py --net nin-cifar10 --data FOLDER --tolerance 0.05
"""

import argparse
import time

import torch

from tapernet import load, load_data, place_checks, terminate
from tapernet.placement import Placement
from tapernet.placement.rerun import GIGABYTE
from tapernet.zoo import trained


def main() -> None:
    """Runs both ways and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="c10net-digits", help="a saved network, or the name of a trained one")
    parser.add_argument("--data", default="digits", help="data set, as load_data takes it")
    parser.add_argument("--images", type=int, help="training images to use; all if left out")
    parser.add_argument("--plain-images", type=int, help="of them for the plain way, whose time is in proportion")
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--sample", type=int, help="images that outcomes are guessed from; a tenth if left out")
    parser.add_argument("--batch-size", type=int, help="images run at once; place_checks chooses if left out")
    parser.add_argument("--memory", type=float, default=4, help="gigabytes of activations that may be kept")
    parser.add_argument("--bias-first", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = load_data(options.data).train
    if options.images:
        train = train.take(range(min(options.images, len(train))))
    network = load(trained.find(options.net))
    an_image: list[float] = []  # seconds
    answers: list[Placement] = []
    for plain in (False, True):
        some = train.take(range(min(options.plain_images or len(train), len(train)))) if plain else train
        net = terminate(network, torch.zeros(1, *train.shape), bias_first=options.bias_first)
        start = time.process_time()
        placement = place_checks(
            net, some, tolerance=options.tolerance, plain=plain, sample=options.sample,
            batch_size=options.batch_size, memory=int(options.memory * GIGABYTE),
        )  # fmt: skip
        seconds = time.process_time() - start
        an_image.append(seconds / len(some))
        answers.append(placement)
        name = "plain" if plain else "guessed and checked"
        print(f"{name}, {len(some):,} images: {seconds:,.1f} s of CPU, "
              f"{placement.trials} trials, accuracy {placement.accuracy_before:.4f} -> {placement.accuracy:.4f}",
              flush=True)  # fmt: skip
    ratio = f"{an_image[0] / an_image[1]:.2f} of the plain time"
    if len(some) < len(train):
        print(f"{ratio}, in proportion to the images; {answers[0].trials} trials to {answers[1].trials}")
    else:
        print(f"{ratio}, {'the same' if answers[0].checks == answers[1].checks else 'ANOTHER'} answer")


if __name__ == "__main__":
    main()
