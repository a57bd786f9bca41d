"""Reads hostile checkpoints and images in this process, and says what became of each and how large it got.

python hostile_files.py checkpoints FOLDER
python hostile_files.py images FOLDER
"""

import json
import sys
import warnings
from pathlib import Path

from timm_diffsens import DiffsensError, UsageError, load_images
from timm_diffsens.device import allocator

allocator.prepare()

sys.path.insert(0, str(Path(__file__).parents[1]))

from peaks import peak  # noqa: E402

from timm_diffsens.models.loading import load_model  # noqa: E402

NETWORK = "resnet10t"  # 5.4 million parameters


def tried(path: Path, kind: str) -> str:
    """What became of it, in a word or a sentence."""
    try:
        if kind == "checkpoints":
            return f"loaded as {load_model(NETWORK, checkpoint=path).weights.source}"
        sample = load_images("folder", data_dir=path, n=None)
        transform = sample.transform(load_model(NETWORK, pretrained=False).input)
        count = sum(len(images) for _, images in sample.batches(transform, 4))
        return f"{count} images, {len(sample.skipped)} left out"
    except UsageError as error:
        return f"refused: {error}"
    except DiffsensError as error:
        return f"failed: {error}"


def main() -> None:
    """Try each file (or folder) of a folder."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    warnings.simplefilter("ignore")
    found = {path.name: tried(path, kind) for path in sorted(folder.iterdir())}
    print(json.dumps({"found": found, "peak": peak()}))


if __name__ == "__main__":
    main()
