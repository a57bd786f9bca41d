"""The metric of torchmetrics: streaming, forwards, merges and processes give what the definition gives."""

import subprocess
import textwrap

import pytest
import torch

from timm_diffsens import UsageError, sensitivity
from timm_diffsens.integrations.torchmetrics import SensitivityMetric


@pytest.fixture
def parts():
    """Representations of 40 images, far from zero, of which float32 sums would keep nothing."""
    clean, a, g = torch.randn(3, 40, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean += 1e6
    return clean, clean + a / 3, clean + g / 2


def assert_equal(found, parts):
    expected = sensitivity(*parts)
    for name in "dgr":
        assert float(found[name]) == pytest.approx(getattr(expected, name), rel=1e-9, nan_ok=True)


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("timm_diffsens.integrations.torchmetrics._INSTALLED", False)
    with pytest.raises(UsageError, match=r"needs torchmetrics, .*'timm-diffsens\[torchmetrics\]'"):
        SensitivityMetric()


class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def torchmetrics(self):
        return pytest.importorskip("torchmetrics", reason="of the torchmetrics extra")

    @pytest.mark.parametrize("size", [1, 7, 40])
    def test_batches_give_what_all_give(self, parts, size):
        metric = SensitivityMetric()
        for batch in zip(*(part.split(size) for part in parts), strict=True):
            metric.update(*batch)
        assert_equal(metric.compute(), parts)
        metric.reset()
        assert all(value.isnan() for value in metric.compute().values())

    def test_float32_is_summed_in_float64(self, parts):
        narrow = [(part - 1e6).float() for part in parts]
        metric = SensitivityMetric()
        for batch in zip(*(part.split(3) for part in narrow), strict=True):
            metric.update(*batch)
        assert_equal(metric.compute(), narrow)

    def test_a_forward_gives_the_batch_and_keeps_all(self, parts):
        metric = SensitivityMetric()
        for batch in zip(*(part.split(8) for part in parts), strict=True):
            assert_equal(metric(*batch), batch)
        assert_equal(metric.compute(), parts)

    def test_states_merge(self, parts):
        one, two = SensitivityMetric(), SensitivityMetric()
        one.update(*(part[:11] for part in parts))
        two.update(*(part[11:] for part in parts))
        one.merge_state(two)
        assert_equal(one.compute(), parts)

    def test_in_a_collection(self, parts, torchmetrics):
        metrics = torchmetrics.MetricCollection({"layer3": SensitivityMetric()})
        metrics.update(*parts)
        assert_equal({name[0]: value for name, value in metrics.compute().items()}, parts)

    @pytest.mark.parametrize("kind", ["constant", "still", "infinite"])
    def test_what_has_no_value(self, parts, kind):
        clean, deformed, noised = parts
        if kind == "constant":
            clean = clean[:1].expand_as(clean)
        if kind == "still":
            noised = clean
        if kind == "infinite":
            clean = torch.where(torch.arange(len(clean))[:, None, None] == 5, torch.inf, clean)
        metric = SensitivityMetric()
        for batch in zip(*(part.split(6) for part in (clean, deformed, noised)), strict=True):
            metric.update(*batch)
        assert_equal(metric.compute(), (clean, deformed, noised))

    def test_of_one_image_only_the_ratio_of_the_two_numerators_is_known(self):
        metric = SensitivityMetric()
        metric.update(torch.zeros(1, 4), torch.full((1, 4), 2.0), torch.full((1, 4), 4.0))
        found = metric.compute()
        assert float(found["r"]) == 0.25
        assert found["d"].isnan()
        assert found["g"].isnan()

    def test_wrong_shapes_are_refused(self, parts):
        metric = SensitivityMetric()
        metric.update(*parts)
        with pytest.raises(UsageError, match="of equal shape"):
            metric.update(parts[0], parts[1], parts[2][:3])
        with pytest.raises(UsageError, match="expected 15 numbers a sample, got 5"):
            metric.update(*(part[:, :, 0] for part in parts))
        assert_equal(metric.compute(), parts)

    def test_plot(self, parts):
        pytest.importorskip("matplotlib", reason="of the torchmetrics extra").use("agg")
        metric = SensitivityMetric()
        metric.update(*parts)
        axes = metric.plot()[1]
        drawn = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
        assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(
            {name: float(drawn[name]) for name in "dgr"}
        )

    @pytest.mark.parametrize("given", ["uneven", "none in the second"])
    def test_two_processes_merge(self, parts, given, tmp_path, warm):
        """Over gloo, by torchmetrics' own reduction: both get what one process gets of all images."""
        torch.save(torch.stack(parts), tmp_path / "parts.pt")
        cuts = {"uneven": [13, 27], "none in the second": [40, 0]}[given]
        code = textwrap.dedent(f"""
            import sys, torch
            from torch import distributed
            from timm_diffsens.integrations.torchmetrics import SensitivityMetric
            rank, folder = int(sys.argv[1]), {str(tmp_path)!r}
            torch.set_num_threads(1)
            distributed.init_process_group("gloo", f"file://{{folder}}/meet", rank=rank, world_size=2)
            own = torch.load(f"{{folder}}/parts.pt", weights_only=True).split({cuts}, dim=1)[rank]
            metric = SensitivityMetric().to("cpu")
            for batch in own.split(5, dim=1):
                metric.update(*batch)
            first = metric.compute()
            again = metric.compute()
            assert first == again
            print(*(float(first[name]) for name in "dgr"))
            distributed.destroy_process_group()
        """)
        running = [
            subprocess.Popen(
                [*warm, "-c", code, str(rank)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        for process in running:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            assert_equal(dict(zip("dgr", map(float, out.split()), strict=True)), parts)
