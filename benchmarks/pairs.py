"""What several deformations in one pass cost: seconds for K of them beside (1 + 2 K) / 3 times those for one.

    python benchmarks/pairs.py resnet18 net/resnet20

The same images for each K, in batches of the size that `--batch-size auto` takes, draws included. Each K runs
in a process of its own; the runs are interleaved; medians.
"""

import argparse
import statistics

from bare import Process, Setting, machine

BATCHES = {"net/resnet20": 64}  # images a batch with K = 1; 16 of 224 x 224 pixels
COUNTS = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=["resnet18", "net/resnet20"])
    parser.add_argument("--layers", default="blocks")
    parser.add_argument("--pairs", default=",".join(map(str, COUNTS)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(machine(options.device)["machine"])
    print("| network | K | batch | seconds | ratio to K = 1 | (1 + 2 K) / 3 | quotient |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for model in options.models:
        of_model(model, [int(k) for k in options.pairs.split(",")], options)


def of_model(model, counts, options):
    usual = BATCHES.get(model, 16)
    total, settings = 5 * usual, []
    for k in counts:
        images = max(1, 3 * usual // (1 + 2 * k))
        settings.append(
            Setting(options.layers, model, images, total / images, options.threads, options.device, pairs=k)
        )
    processes = [Process(setting) for setting in settings]
    runs = [[] for _ in settings]
    for repeat in range(options.repeats):
        for i in range(len(settings)):
            at = (i + repeat) % len(settings)
            runs[at].append(processes[at].run()["seconds"])
    for process in processes:
        process.close()
    one = None
    for setting, seconds in zip(settings, runs, strict=True):
        median = statistics.median(seconds) * setting.batches / round(setting.batches)
        one = one or median
        ratio, expected = median / one, (1 + 2 * setting.pairs) / 3
        print(
            f"| {model} | {setting.pairs} | {setting.images} | {median:.3f} | {ratio:.3f} | {expected:.3f} "
            f"| {ratio / expected:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
