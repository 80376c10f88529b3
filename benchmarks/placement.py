"""Time of Algorithm 1 when every trial runs everything, and when it is guessed and checked; the answers must be equal.

python benchmarks/placement.py --network nin --data FOLDER --weights FILE --tolerance 0.05
"""

import argparse
import time

import torch
from safetensors.torch import load_file

from tapernet import load_data, place_checks, terminate, zoo


def main() -> None:
    """Runs both ways and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="c10net", help="name in the zoo")
    parser.add_argument("--data", default="digits", help="data set, as load_data takes it")
    parser.add_argument("--weights", help="safetensors file of the network's state; untrained if left out")
    parser.add_argument("--batch-norm", action="store_true", help="the network was trained with batch-norm")
    parser.add_argument("--images", type=int, help="training images to use; all if left out")
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--sample", type=int, help="images that outcomes are guessed from; a tenth if left out")
    parser.add_argument("--bias-first", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = load_data(options.data).train
    if options.images:
        train = train.take(range(min(options.images, len(train))))
    network = zoo.create(options.network, input_shape=train.shape, classes=train.classes, batch_norm=options.batch_norm)
    if options.weights:
        network.load_state_dict(load_file(options.weights))
    seconds, answers = [], []
    for plain in (False, True):
        net = terminate(network.eval(), torch.zeros(1, *train.shape), bias_first=options.bias_first)
        start = time.process_time()
        placement = place_checks(net, train, tolerance=options.tolerance, plain=plain, sample=options.sample)
        seconds.append(time.process_time() - start)
        answers.append(placement)
        name = "plain" if plain else "guessed and checked"
        print(f"{name}: {seconds[-1]:.1f} s of CPU, {placement.trials} trials, "
              f"accuracy {placement.accuracy_before:.4f} -> {placement.accuracy:.4f}", flush=True)  # fmt: skip
    same = answers[0].checks == answers[1].checks
    print(f"{seconds[0] / seconds[1]:.2f} of the plain time, {'the same' if same else 'ANOTHER'} answer")


if __name__ == "__main__":
    main()
