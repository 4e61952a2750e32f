"""Checkpoints of the 2020 release: small ones written here the reverse way load as what they came from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import torch.nn.functional as F
from release_files import saved_by_the_release, write

from hat.cli.files import convert as main
from hat.errors import ArchError, CheckpointError
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer, extract
from hat.space import SIDES, Arch, DecoderArch, EncoderArch, SpaceOptions, space_of
from hat.train.checkpoint import load
from hat.train.legacy import from_release

PATH = Path("release.pt")
SIZES = {"embed_dim": (12, 12), "ffn_embed_dim": (20, 16), "layers": (3, 2)}
SIZES |= {"embed_choice": ((12, 8), (12, 10)), "ffn_embed_dim_choice": ((20, 10), (16, 8))}
SIZES |= {"layer_num_choice": ((3,), (2, 1)), "self_attention_heads_choice": ((4, 2), (4, 2))}
EQUAL = SpaceOptions(
    **{f"{side}_{key}": pair[n] for key, pair in SIZES.items() for n, side in enumerate(SIDES)},
    **{"decoder_ende_attention_heads_choice": (2, 1), "decoder_arbitrary_ende_attn_choice": (-1, 1, 2)},
    qkv_dim=8,
)
UNEQUAL = replace(EQUAL, decoder_embed_dim=10, decoder_embed_choice=(10, 6))
CASES = {
    "shared": (EQUAL, ModelConfig(share_all_embeddings=True), (21, 21)),
    "separate": (EQUAL, ModelConfig(vocab_original_scaling=True), (21, 17)),
    "unequal widths": (UNEQUAL, ModelConfig(share_decoder_input_output_embed=True), (21, 17)),
    "pre-norm": (
        replace(UNEQUAL, qkv_dim=None, decoder_embed_dim=8, decoder_embed_choice=(8, 6)),
        ModelConfig(encoder_normalize_before=True, decoder_normalize_before=True, activation_dropout=0.2),
        (21, 17),
    ),
}


def model_of(case: str) -> SuperTransformer:
    options, cfg, sizes = CASES[case]
    model = SuperTransformer(space_of(options), sizes, cfg, torch.Generator().manual_seed(3))
    with torch.no_grad():
        for weight in model.parameters():  # norms and biases are told apart too
            noise = torch.Generator().manual_seed(weight.numel())
            weight.add_(0.1 * torch.randn(weight.shape, generator=noise))
    return model.eval()


def release_of(case: str, model: SuperTransformer, **more: Any) -> dict[str, Any]:
    """Return what the release would have saved of `model`."""
    options, cfg, _ = CASES[case]
    return saved_by_the_release(options, cfg, model, **more)


def some_archs(model: SuperTransformer) -> list[Arch]:
    """Return the largest, the smallest and a mixed architecture."""
    space = model.space
    large, small = space.largest(), space.smallest()
    mixed = Arch(
        EncoderArch(small.encoder.embed_dim, (20, 10, 20), (2, 4, 4)),
        DecoderArch(large.decoder.embed_dim, (8, 16), (4, 2), (2, 1), (3, 2)),
    )
    return [large, small, mixed]


def round_weights(model: torch.nn.Module) -> None:
    """Leave in the weights what half precision keeps of them."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())


def ids() -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(5)
    source = torch.randint(4, 17, (3, 6), generator=noise)
    source[0, :2] = 1
    return source, torch.randint(4, 17, (3, 5), generator=noise)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_the_model_saved(case: str, half: bool, tmp_path: Path) -> None:
    """Whole weights in a zip, half ones in the older format."""
    model = model_of(case)
    values = release_of(case, model)
    if half:
        values["model"] = {name: weight.half() for name, weight in values["model"].items()}
        round_weights(model)
    said: list[str] = []
    checkpoint = load(write(values, tmp_path / "release.pt", not half), said.append)
    assert any("2020 release" in line for line in said) and any("cannot be verified" in line for line in said)
    assert checkpoint.space == model.space and checkpoint.arch is None and checkpoint.state == {}
    assert checkpoint.model_config == model.cfg and checkpoint.vocab_sizes == CASES[case][2]
    assert all(weight.dtype == torch.float32 for weight in checkpoint.weights.values())
    loaded = checkpoint.model().eval()
    source, target = ids()
    for arch in some_archs(model):
        assert torch.equal(loaded(source, target, arch), model(source, target, arch))
        cut = checkpoint.sub(arch).eval()
        torch.testing.assert_close(cut(source, target), model(source, target, arch))


def test_a_released_sub_is_cut_from_a_space_of_its_own() -> None:
    """Its options hold the parser's defaults as choices, which the SuperTransformer cannot even have."""
    model = model_of(case := "shared")
    arch = some_archs(model)[2]
    sub_args = {key.replace("-", "_"): value for key, value in arch.to_yaml().items()}
    defaults = {"encoder_embed_choice": [512, 256], "encoder_layer_num_choice": [7, 6]}
    values = release_of(case, model, **sub_args, **defaults, train_subtransformer=True)
    checkpoint = from_release(values, PATH)
    assert checkpoint.space.encoder.embed_choice == (8,)
    assert checkpoint.space.encoder.super_embed_dim == 12
    source, target = ids()
    torch.testing.assert_close(checkpoint.sub(arch)(source, target), model(source, target, arch))
    with pytest.raises(ArchError, match="encoder-embed-choice"):
        checkpoint.sub(model.space.largest())
    values = release_of(case, model, **sub_args, train_subtransformer=False, relu_dropout=0.25)
    checkpoint = from_release(values, PATH)
    assert checkpoint.space == model.space
    assert checkpoint.model_config.activation_dropout == 0.25  # relu-dropout is its older name


@pytest.mark.parametrize("case", CASES)
def test_every_weight_is_needed_and_none_is_too_many(case: str) -> None:
    whole = release_of(case, model_of(case))
    names = [name for name in whole["model"] if not name.endswith(("version", "_float_tensor"))]
    changes: list[dict[str, Any]] = [{"encoder.embed_positions.weight": torch.ones(3, 12)}]
    some = names if case == "separate" else names[::5]
    changes += [{name: None} for name in some]
    changes += [{name: F.pad(whole["model"][name], (0, 1))} for name in some]
    changes += [{names[5]: bad} for bad in (torch.ones(3, dtype=torch.long), 3, [], torch.tensor(1.0))]
    for change in changes:
        weights = {key: weight for key, weight in (whole["model"] | change).items() if weight is not None}
        with pytest.raises(CheckpointError, match=r"release\.pt is no whole checkpoint of the 2020 release"):
            from_release(whole | {"model": weights}, PATH)
    if case == "shared":
        whole["model"]["decoder.embed_tokens.weight"] = whole["model"]["decoder.embed_tokens.weight"] + 1
        with pytest.raises(CheckpointError, match="differ"):
            from_release(whole, PATH)


def test_convert_cuts_out_the_sub(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = model_of("unequal widths")
    release = write(release_of("unequal widths", model), tmp_path / "release.pt", zipped=False)
    arch = some_archs(model)[2]
    lines = [f"{key}: {value}\n" for key, value in arch.to_yaml().items()]
    (tmp_path / "arch.yml").write_text("".join(lines))
    out, tensors = tmp_path / "out.pt", tmp_path / "out.safetensors"
    line = ["--input", release, "--configs", tmp_path / "arch.yml", "--output", out, "--safetensors", tensors]
    assert main([*map(str, line), "--fp16", "--json"]) == 0
    shown = capsys.readouterr().out
    report = json.loads(shown.splitlines()[-1])
    sub = extract(model, arch)
    round_weights(sub)
    for what, whole in (("input", model), ("output", sub)):
        assert report[what]["params"] == sum(weight.numel() for weight in whole.parameters())
    assert report["input"]["path"] == str(release)
    assert report["output"]["bytes"] == out.stat().st_size < report["input"]["bytes"]
    assert f"{report['output']['params']} parameters" in shown
    checkpoint = load(out)
    assert checkpoint.arch == arch and checkpoint.space == model.space
    source, target = ids()
    torch.testing.assert_close(checkpoint.model()(source, target), sub(source, target))
    with safetensors.safe_open(tensors, framework="pt") as file:
        assert json.loads(file.metadata()["hat"])["arch"] == arch.to_yaml()
        assert set(file.keys()) == checkpoint.weights.keys()
        for name in checkpoint.weights:
            weight = file.get_tensor(name)
            assert weight.dtype == torch.float16 and torch.equal(weight.float(), checkpoint.weights[name])
