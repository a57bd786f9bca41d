"""The loop: what it minimises, what it keeps, and that a kill at any moment changes nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from timm_diffsens import bench, read_records
from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.models import checkpoints
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.loading import load_model
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.train import loop, objective
from timm_diffsens.train.data import SHIFT, Images, augmented, draw_augmentation, load_task
from timm_diffsens.train.recipe import Recipe
from timm_diffsens.train.run import CHECKPOINT, CURVE, STATE, TRACK, run_folder, train

SMALL = {"train_images": 128, "validation_images": 64, "epochs": 3}


def with_few_test_images(recipe):
    """They decide nothing, and 10,000 take longer than a short training."""
    data = load_task(recipe)
    return dataclasses.replace(data, test=Images(data.test.x[:200], data.test.y[:200]))


def test_hinge_loss_and_errors_by_hand():
    recipe = Recipe("scale1", "net/lenet")
    outputs, y = torch.tensor([[2.0], [0.25], [-0.5], [0.0]]), torch.tensor([1, 1, 1, -1])
    assert objective.loss_of(outputs, y, recipe).item() == (0 + 0.75 + 1.5 + 1.0) / 4
    assert objective.wrong_answers(outputs, y).tolist() == [False, False, True, True]
    scores = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert objective.wrong_answers(scores, torch.tensor([1, -1])).tolist() == [False, False]
    entropy = Recipe("scale1", "net/lenet", loss="cross-entropy")
    assert objective.loss_of(
        torch.zeros(5, 2), torch.ones(5, dtype=torch.long), entropy
    ).item() == pytest.approx(np.log(2))


def test_cosine_annealing():
    recipe = Recipe("scale1", "net/lenet", epochs=10)
    rates = [loop.learning_rate(recipe, e) for e in range(11)]
    assert rates[0] == 1
    assert rates[5] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0)
    assert rates == sorted(rates, reverse=True)
    assert loop.learning_rate(Recipe("scale1", "net/lenet", schedule="constant"), 7) == 1


def test_a_mean_field_step_moves_weights_as_much_at_every_width():
    """SGD on f / H with rate lr H and decay / H: the step of a weight does not depend on H."""

    class OneWeight(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.w, self.lr_scale = nn.Parameter(torch.tensor([2.0])), width

        def forward(self, x):
            return x * self.w / self.lr_scale

    steps = []
    for width in (1, 8):
        net = OneWeight(width)
        optimizer = loop.make_optimizer(net, Recipe("scale1", "net/simple", weight_decay=0.5, lr=0.25))
        net(torch.tensor([1.0])).sum().backward()
        optimizer.step()
        steps.append(net.w.item() - 2.0)
    assert steps[0] == steps[1] == -0.25 * (1 + 0.5 * 2)


def test_augmentation_shifts_and_flips():
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    out = augmented(x, torch.from_numpy(draw_augmentation(len(x), np.random.default_rng(0))))
    padded = torch.nn.functional.pad(x, (SHIFT,) * 4)
    seen = set()
    for image, mother in zip(out[:, 0], padded[:, 0], strict=True):
        cuts = {
            (i, j): mother[i : i + 8, j : j + 8] for i in range(2 * SHIFT + 1) for j in range(2 * SHIFT + 1)
        }
        found = [(*place, False) for place, cut in cuts.items() if torch.equal(image, cut)]
        found += [(*place, True) for place, cut in cuts.items() if torch.equal(image, cut.flip(1))]
        assert found
        seen.add(found[0])
    assert {flip for _, _, flip in seen} == {False, True}
    assert {i for i, _, _ in seen} == set(range(2 * SHIFT + 1))


def test_the_sets_are_disjoint_balanced_and_follow_the_seed():
    recipe = Recipe("scale1", "net/lenet", **SMALL)
    data, other = load_task(recipe), load_task(Recipe("scale1", "net/lenet", seed=1, **SMALL))
    rows = {
        name: {tuple(x.flatten().nonzero().flatten().tolist()) for x in getattr(data, name).x}
        for name in ("train", "validation", "test")
    }
    assert not rows["train"] & rows["validation"]
    assert not (rows["train"] | rows["validation"]) & rows["test"]
    assert all(int(getattr(data, name).y.sum()) == 0 for name in rows)
    assert torch.equal(data.test.x, other.test.x)
    assert not torch.equal(data.train.x, other.train.x)


def test_corruption_is_fixed_for_each_image_and_the_one_bench_uses():
    clean, noisy, again = (
        load_task(Recipe("scale1", "net/lenet", corrupt=c, **SMALL)) for c in (0.0, 0.5, 0.5)
    )
    assert torch.equal(noisy.train.x, again.train.x)
    noise = noisy.train.x - clean.train.x
    # 128 * 1024 draws: the standard deviation's own relative error is 1/sqrt(2 n) = 0.2 %
    assert noise.std().item() == pytest.approx(0.5, rel=4 * 0.002)
    from timm_diffsens.sensitivities.perturbed import Perturbation

    sample = ScaleDetection().test(10_000)
    first = Perturbation(corruption=0.5).corrupted(sample.images[:5], sample.indices[:5].tolist())
    assert torch.equal(noisy.test.x[:5], first)


def test_a_lenet_learns_and_its_checkpoint_says_everything(tmp_path):
    recipe = Recipe("scale1", "net/lenet", epochs=12, validation_images=512)
    result = train(recipe, TrainOptions(out=tmp_path))
    assert result.test_error < 0.3  # chance is 0.5; 60 standard errors of 10,000 answers below
    with safe_open(result.checkpoint, "pt") as file:
        stated = json.loads(file.metadata()["recipe"])
    assert stated["training"] == recipe.to_json()
    assert stated["test_error"] == result.test_error
    loaded = load_model("net/lenet", checkpoint=result.checkpoint)
    data = load_task(recipe)
    assert objective.error_of(loaded.module, data.test) == result.test_error
    assert objective.error_of(loaded.module, data.train) == result.train_error
    curve = json.loads((result.folder / CURVE).read_text())["curve"]
    assert [row["epoch"] for row in curve] == list(range(1, 13))
    held = [row["validation_error"] for row in curve]
    assert held[result.epoch - 1] == min(held) == result.validation_error
    assert not (result.folder / STATE).exists()
    record = bench("net/lenet", checkpoint=result.checkpoint, dataset="scale1", images=100, layers="convs")
    assert record.train_error == pytest.approx(result.train_error, rel=1e-6)
    assert (record.test_error.source, record.test_error.n) == ("recipe", 10_000)
    assert record.test_error.value == pytest.approx(result.test_error, rel=1e-6)
    assert record.protocol.deformation == "active pixels"
    assert record.data.parameters == recipe.scale


def test_half_the_bytes_hold_the_very_network_that_was_tested(tmp_path):
    recipe = Recipe("scale1", "net/resnet20", ModelArguments(width=4), **{**SMALL, "epochs": 1}, amp=True)
    whole = train(recipe, TrainOptions(out=tmp_path), load=with_few_test_images)
    half = train(
        dataclasses.replace(recipe, half=True), TrainOptions(out=tmp_path), load=with_few_test_images
    )
    assert half.checkpoint.stat().st_size < 0.75 * whole.checkpoint.stat().st_size
    kept = load_model("net/resnet20", checkpoint=half.checkpoint).module
    assert objective.error_of(kept, with_few_test_images(recipe).test) == half.test_error
    rounded = load_model("net/resnet20", checkpoint=whole.checkpoint).module
    checkpoints.round_to_half(rounded)
    assert checkpoints.state_sha256(rounded.state_dict()) == checkpoints.state_sha256(kept.state_dict())


def test_amp_trains_in_bfloat16_and_tests_in_float32():
    recipe = Recipe("scale1", "net/lenet", **SMALL, amp=True)
    data = load_task(recipe)
    module = load_model(
        "net/lenet", pretrained=False, arguments=ModelArguments(in_chans=1, num_classes=1, size=32)
    ).module
    seen = {}

    def note(part, inputs, output):
        seen.setdefault(part.training, output.dtype)

    module.register_forward_hook(note)
    loop.fit(module, data, recipe)
    assert seen == {True: torch.bfloat16, False: torch.float32}
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_a_finished_training_is_not_repeated(tmp_path):
    recipe = Recipe("scale1", "net/fc2", **SMALL)
    one = train(recipe, TrainOptions(out=tmp_path))
    before = one.checkpoint.stat().st_mtime_ns
    two = train(recipe, TrainOptions(out=tmp_path))
    assert not two.now
    assert two.test_error == one.test_error
    assert one.checkpoint.stat().st_mtime_ns == before
    assert train(recipe, TrainOptions(out=tmp_path, force=True)).now


def test_any_library_can_be_trained(tmp_path):
    for model in ("test_resnet", "torchvision/shufflenet_v2_x0_5"):
        recipe = Recipe("scale1", model, train_images=64, validation_images=32, epochs=1)
        result = train(recipe, TrainOptions(out=tmp_path), load=with_few_test_images)
        loaded = load_model(model, checkpoint=result.checkpoint)
        assert loaded.module(torch.zeros(2, 1, 32, 32)).shape == (2, 1)


def test_patience_stops_early(tmp_path):
    recipe = Recipe("scale1", "net/fc2", **{**SMALL, "epochs": 30}, lr=1e-6, patience=2)
    result = train(recipe, TrainOptions(out=tmp_path))
    curve = json.loads((result.folder / CURVE).read_text())["curve"]
    held = [row["validation_error"] for row in curve]
    assert result.epochs == len(held) < 30
    assert held.index(min(held)) == len(held) - 3  # two epochs after the last that was better


def test_tracking_follows_the_sensitivities(tmp_path):
    recipe = Recipe("scale1", "net/lenet", **SMALL)
    result = train(recipe, TrainOptions(out=tmp_path, track="3,0,2"))
    rows = json.loads((result.folder / TRACK).read_text())
    assert [row["epoch"] for row in rows] == [0, 2, 3]
    record = bench("net/lenet", checkpoint=result.checkpoint, dataset="scale1", images=40)
    assert rows[0]["layers"][-1]["layer"] == record.output.layer
    assert rows[0]["layers"] != rows[1]["layers"]


def test_a_training_stopped_before_it_measures_an_epoch_measures_it_when_it_goes_on(tmp_path):
    recipe, options = Recipe("scale1", "net/fc2", **SMALL), {"track": "0,1,2,3"}

    def stop(row):  # after the epoch is saved, before it is measured
        raise KeyboardInterrupt

    whole = train(recipe, TrainOptions(out=tmp_path / "whole", **options))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(recipe, TrainOptions(out=tmp_path / "broken", **options), progress=stop)
    broken = train(recipe, TrainOptions(out=tmp_path / "broken", **options))
    assert json.loads((broken.folder / TRACK).read_text()) == json.loads((whole.folder / TRACK).read_text())


def test_a_finished_training_leaves_no_state(tmp_path):
    recipe = Recipe("scale1", "net/fc2", **SMALL)
    folder = train(recipe, TrainOptions(out=tmp_path)).folder
    (folder / STATE).write_bytes(b"of a training that was killed before it removed it")
    assert not train(recipe, TrainOptions(out=tmp_path)).now
    assert not (folder / STATE).exists()


def test_divergence_is_told_and_the_last_good_epoch_stays(tmp_path):
    recipe = Recipe("scale1", "net/fc4", **SMALL, lr=1e30)
    with pytest.raises(loop.DivergedError, match=r"diverged in epoch \d+: .*lower --lr than 1e\+30"):
        train(recipe, TrainOptions(out=tmp_path))


def test_a_damaged_state_is_told_and_training_starts_anew(tmp_path):
    recipe = Recipe("scale1", "net/fc2", **SMALL)
    folder = run_folder(tmp_path, recipe)
    folder.mkdir(parents=True)
    (folder / STATE).write_bytes(b"PK half a file")
    with pytest.warns(UserWarning, match="training starts anew"):
        assert train(recipe, TrainOptions(out=tmp_path)).epochs == 3


def test_a_state_of_another_recipe_is_not_used(tmp_path):
    path = tmp_path / "state.pt"
    one, other = Recipe("scale1", "net/fc2", **SMALL), Recipe("scale1", "net/fc2", **SMALL, seed=1)
    loop.State({}, {}, {}).save(path, one)
    assert loop.State.load(path, one) is not None
    assert loop.State.load(path, other) is None


CHILD = """
import sys
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.train.recipe import Recipe
from timm_diffsens.train.run import train
sizes = dict(train_images=256, validation_images=64, batch_size=32)
train(Recipe("scale1", "net/{net}", epochs={epochs}, **sizes), TrainOptions(out=sys.argv[1]))
"""


def _kill_until_done(code, out, rng, most):
    """Start the training again and again, killing it at random moments; how many kills it survived."""
    kills = 0
    while True:
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(out)])
        try:
            process.wait(timeout=rng.uniform(2.0, 8.0) if kills < most else None)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0
        return kills


@pytest.mark.slow
@pytest.mark.parametrize("net", ["vgg11_bn"])
def test_killed_twenty_times_it_ends_as_an_unbroken_one(tmp_path, net):
    """`kill -9` at random moments; weights are equal to rounding (here: exactly, one thread order)."""
    rng = np.random.default_rng(0)
    epochs, kills, round_ = 30, 0, 0
    code = CHILD.format(net=net, epochs=epochs)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "whole")], check=True)
    whole = next((tmp_path / "whole").rglob(CHECKPOINT))
    while kills < 20:
        out = tmp_path / f"broken{round_}"
        kills += _kill_until_done(code, out, rng, 20 - kills)
        round_ += 1
        broken = next(out.rglob(CHECKPOINT))
        with safe_open(whole, "pt") as one, safe_open(broken, "pt") as other:
            for name in one.keys():  # noqa: SIM118
                torch.testing.assert_close(one.get_tensor(name), other.get_tensor(name), rtol=1e-5, atol=1e-6)
    assert kills >= 20


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    """The same by an exception between two epochs: bit for bit on one thread."""
    recipe = Recipe("scale1", "net/resnet20", arguments=ModelArguments(width=4), **{**SMALL, "epochs": 4})

    class Stop(Exception):
        pass

    def stop_after(count):
        def tell(row):
            if row["epoch"] == count:
                raise Stop

        return tell

    few = {"load": with_few_test_images}
    whole = train(recipe, TrainOptions(out=tmp_path / "whole"), **few)
    for count in (1, 3):
        with pytest.raises(Stop):
            train(recipe, TrainOptions(out=tmp_path / "broken"), **few, progress=stop_after(count))
    resumed = train(recipe, TrainOptions(out=tmp_path / "broken"), **few)
    with safe_open(whole.checkpoint, "pt") as one, safe_open(resumed.checkpoint, "pt") as other:
        for name in one.keys():  # noqa: SIM118
            assert torch.equal(one.get_tensor(name), other.get_tensor(name)), name
    assert resumed.epochs == whole.epochs == 4


def test_seeds_of_one_network_are_one_point_on_the_page(tmp_path):
    """The whole chain: trained, measured, read, merged and drawn."""
    from timm_diffsens.results.page.build import render_page
    from timm_diffsens.results.page.record_data import facts
    from timm_diffsens.results.stats.leaderboard import build_leaderboard

    for model, seed in (("net/lenet", 0), ("net/lenet", 1), ("net/fc2", 0)):
        recipe = Recipe("scale1", model, seed=seed, train_images=64, epochs=1)
        result = train(recipe, TrainOptions(out=tmp_path / "runs"))
        options = {"dataset": "scale1", "images": 20, "layers": "stages", "variants": ["original"]}
        record = bench(model, checkpoint=result.checkpoint, out=tmp_path, **options)
        assert "active pixels move by at most one pixel" in dict(facts(record))["deformation"]
    frame = read_records(tmp_path / "records")
    assert frame.groupby("model")["network"].nunique().tolist() == [1, 1]
    assert sorted(frame.loc[frame["model"] == "net/lenet", "training_seed"]) == [0, 1]
    assert render_page(build_leaderboard(tmp_path)).count('data-model="net/lenet"') == 2
