"""The configuration: one list of options, checked in one place."""

import subprocess

import pytest

from timm_diffsens import UsageError
from timm_diffsens.schema.config import Config, options, split_commas

# What a developer would write into the class to add an option, and nothing else.
ONE_MORE = """
from timm_diffsens.schema import config

class Config(config.Config):
    twist: float = config._perturbation(0.0, "A twist.", "turns")

config.Config = Config
"""


@pytest.fixture
def run(warm):
    def printed(code):
        done = subprocess.run([*warm, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return printed


@pytest.mark.parametrize("verb", ["bench", "sweep"])
def test_a_new_field_is_an_option_of_the_verbs(verb, run):
    shown = f"from timm_diffsens.cli import app; app([{verb!r}, '--help'], standalone_mode=False)"
    text = run(ONE_MORE + shown)
    assert "--twist" in text
    assert "A twist, in turns." in text
    assert "--twist" not in run(shown)


def test_a_new_field_is_an_argument_of_bench_and_stands_in_the_protocol(run):
    asked = "dict(pretrained=False, images=2, layers='output', variants='original')"
    code = f"""
from timm_diffsens import bench
print("twist = 0.0: A twist, in turns." in bench.__doc__)
plain, twisted = bench("test_resnet", **{asked}), bench("test_resnet", twist=0.5, **{asked})
print(plain.protocol.options, twisted.protocol.options)
print(plain.protocol.sha256 == twisted.protocol.sha256, plain.key == twisted.key)
"""
    found = run(ONE_MORE + code).splitlines()
    assert found == ["True", "{} {'twist': 0.5}", "False False"]


def test_a_record_without_further_options_does_not_mention_them(tmp_path, run):
    code = f"""
from timm_diffsens import bench
bench("test_resnet", pretrained=False, images=2, layers="output", variants="original", out={str(tmp_path)!r})
"""
    run(code)
    (path,) = tmp_path.rglob("*.json")
    assert '"options"' not in path.read_text()
    assert '"extensions"' not in path.read_text()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shuffles": 0}, "shuffles must be between 1 and 10,000, got 0"),
        ({"shuffles": 10**20}, "shuffles must be between 1 and 10,000, got 100000000000000000000"),
        ({"init_samples": -1}, "init_samples must be between 1 and 10,000, got -1"),
        ({"cut": 1_000_000}, "cut must be at most 1,000, got 1000000"),
        ({"images": 10**20}, "images must be at most 100,000,000, got 100000000000000000000"),
        ({"batch_size": "1000001"}, "batch_size must be at most 1,000,000, got 1000001"),
        ({"input_size": "224,9000"}, "input_size must be at most 8,192 pixels a side, got '224,9000'"),
        ({"delta": -1}, "delta must be a positive number of pixels, got -1"),
        ({"delta": (1, 0)}, "delta must be a positive number of pixels, got 0"),
        ({"delta": "-1@224"}, "delta must be a positive number of pixels, got -1"),
        ({"corruption": -0.5}, "corruption must be at least 0, got -0.5"),
        ({"corruption": float("inf")}, "corruption must be a finite number, got inf"),
        ({"test_error": 1.5}, "test_error must be between 0 and 1, got 1.5"),
        ({"seed": 2**63}, "seed must be between 0 and 9.22337e+18, got 9223372036854775808"),
        ({"batch_size": 0}, "batch_size must be a positive number or auto, got 0"),
        ({"batch_size": "many"}, "batch_size needs a whole number or auto, got 'many'"),
        ({"images": "few"}, "images needs a whole number or all, got 'few'"),
        ({"input_size": "2x3x4"}, "input_size needs H or H,W of at least 2 pixels, got '2x3x4'"),
        ({"input_size": 1}, "input_size needs H or H,W of at least 2 pixels, got 1"),
        ({"mean": ["0.5", "x"]}, "mean needs numbers separated by commas, got 0.5,x"),
        ({"imgaes": 3}, "unknown option 'imgaes'; did you mean images"),
        ({"variants": "shuffled"}, "unknown variant 'shuffled'; did you mean channel-shuffled?"),
    ],
)
def test_wrong_values_are_named_with_what_was_expected(values, message):
    with pytest.raises(UsageError) as caught:
        Config(**values)
    assert str(caught.value).replace("'0.5,x'", "0.5,x").startswith(message)


def test_text_and_values_mean_the_same():
    text = Config(
        images="all", input_size="32,48", mean="0.5,0.4,0.3", layers="convs,layer1.*", batch_size="7"
    )
    values = Config(
        images=None, input_size=(32, 48), mean=[0.5, 0.4, 0.3], layers=["convs", "layer1.*"], batch_size=7
    )
    assert text == values
    assert Config(input_size=32).input_size == (32, 32)


def test_an_option_is_given_also_with_the_value_of_its_default():
    config = Config(delta=2.0, cut=3)
    assert [config.given(name) for name in ("delta", "cut", "seed")] == [True, True, False]
    assert config.changed(seed=1).all_given() == {"delta": (2.0,), "cut": 3, "seed": 1}


@pytest.mark.parametrize("values", [{"images": 2.9}, {"batch_size": True}, {"input_size": 32.7}])
def test_numbers_are_not_cut_off(values):
    with pytest.raises(UsageError, match="needs"):
        Config(**values)


def test_original_comes_first_and_all_are_the_built_in_ones():
    assert Config(variants="init,mean-channel").variants == ("original", "mean-channel", "init")
    assert Config(variants="all").variants == (
        "original", "channel-shuffled", "mean-channel", "mean-filter", "init"
    )  # fmt: skip


def test_older_names_of_options():
    assert Config(corrupt=0.5) == Config(corruption=0.5)


def test_arguments_stay_with_their_name():
    assert split_commas("a,b.py:c:x=1,y=2,d") == ["a", "b.py:c:x=1,y=2", "d"]
    assert split_commas(["a, b", "c"]) == ["a", "b", "c"]


def test_the_name_of_a_file_stays_whole_up_to_its_suffix():
    file = "fields:run, 1/a=1,b=2/x.npz"
    assert split_commas(f"{file},mode:i=1,j=2,diffeo") == [file, "mode:i=1,j=2", "diffeo"]
    assert split_commas(["fields:no/suffix", "diffeo"]) == ["fields:no/suffix", "diffeo"]
    assert Config(deformation=f"{file},fields:C:\\y,z.npy").deformation == (file, "fields:C:\\y,z.npy")


def test_every_option_says_what_it_is():
    for name, option in options(Config).items():
        assert option.help.endswith("."), name
        assert option.help[0].isupper() or option.help.split()[0].rstrip(",:") in (
            "stages",
            "original",
            "auto",
            "scale1",
        )


def test_plain_options_are_read_back_the_same_in_another_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def same(model, generator=None): return model\n")
    monkeypatch.chdir(tmp_path)
    config = Config(data_dir="images", variants="mine.py:same", checkpoint="weights.safetensors")
    plain = config.plain()
    monkeypatch.chdir("/")
    again = Config(**plain)
    assert again.data_dir == tmp_path / "images"
    assert again.checkpoint == tmp_path / "weights.safetensors"
    assert again.variants == ("original", f"{tmp_path / 'mine.py'}:same")


def test_objects_do_not_travel():
    with pytest.raises(UsageError, match="dataset must be a spec here, got a list"):
        Config(dataset=[1]).plain()
