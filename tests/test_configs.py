"""What configs/ ships: every file parses, the released models are those of the table, the recipes hold.

Recipes are those of REFERENCE section 3, written out here by hand.
"""

import json
import shlex
import shutil
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import release_tables as release

from hat.cli.evo_search import SearchOptions
from hat.cli.latency_dataset import DatasetOptions
from hat.cli.latency_predictor import PredictorOptions, ReleaseOptions
from hat.cli.main import load
from hat.cli.options import OutputOptions, parse, super_yml_of
from hat.cli.settings import Settings, parse_settings, space_and_arch
from hat.files.download import latency_data_names, released_models
from hat.model.layers import count_macs, count_params
from hat.search.strategies import EvolutionConfig, ScoringOptions
from hat.space import Arch, DecoderArch, EncoderArch, SearchSpace

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
SUBS = [model for model in released_models() if model.hardware]
SUPERS = {model.task_name: model for model in released_models() if not model.hardware}
YAMLS = sorted(CONFIGS.rglob("*.yml"))


class Task(NamedTuple):
    """What a released task has of its own."""

    data: str
    arch: str
    short: str
    super_interval: int
    sub_interval: int
    vocab: tuple[int, ...]
    iwslt: bool = False

    @property
    def super_yml(self) -> str:
        return "supertransformer/space1.yml" if self.iwslt else "supertransformer/space0.yml"


TASKS = {
    "wmt14.en-de": Task("wmt16_en_de", "transformersuper_wmt_en_de", "wmt14ende", 10, 10, (32768,)),
    "wmt14.en-fr": Task("wmt14_en_fr", "transformersuper_wmt_en_fr", "wmt14enfr", 1, 1, (44512,)),
    "wmt19.en-de": Task("wmt19_en_de", "transformersuper_wmt_en_de", "wmt19ende", 1, 10, (44512,)),
    "iwslt14.de-en": Task(
        "iwslt14_de_en", "transformersuper_iwslt_de_en", "iwslt14deen", 1, 1, (8848, 6632), True
    ),
}
DEVICES = {  # iterations, lat-norm, constraint in ms and how the file of the search names it
    "cpu_raspberrypi": (2, 5000, 6000, "6s"),
    "cpu_xeon": (20, 300, 200, "200ms"),
    "gpu_titanxp": (20, 200, 200, "200ms"),
}
NORM = (640, 6, 2048, 6, 640, 6, 2048, 6, 6, 2)
MEASURED = [tuple(name.split("_", 1)) for name in latency_data_names(tuple(SUBS))]  # (task, device)


def settings_of(*files: Path, own: tuple[type, ...] = ()) -> tuple:
    flags = ("--configs", "--sub-configs")
    argv = [f"{flag}={file}" for flag, file in zip(flags, files, strict=False)]
    return parse_settings(argv, *own, prog="x", description="", config_flags=flags)


def task_folder(short: str) -> Path:
    return CONFIGS / next(name for name, task in TASKS.items() if task.short == short)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_parses_with_the_options_of_its_command(path: Path, capsys) -> None:
    kind = path.parent.name
    if kind == "latency_predictor":
        groups = (PredictorOptions, ReleaseOptions, OutputOptions)
        cfg = parse([f"--configs={path}"], *groups, prog="x", description="", config_flags=("--configs",))[0]
        assert cfg.lat_dataset_path and cfg.ckpt_path
    elif kind == "evo_search":
        argv = [f"--configs={super_yml_of(path)[0]}", f"--evo-configs={path}"]
        options = {"prog": "x", "description": "", "config_flags": ("--configs", "--evo-configs")}
        groups = SearchOptions, EvolutionConfig, ScoringOptions
        search = parse_settings(argv, *groups, **options)[1]
        assert search.ckpt_path
    elif kind == "subtransformer" and not path.name.startswith("common"):
        settings = settings_of(path, path.with_name(f"common{super_yml_of(path)[1]}.yml"))[0]
        assert space_and_arch(settings.space, settings.arch)[1] is not None
        assert settings.run.train_subtransformer
    else:
        settings, data = settings_of(path, own=(DatasetOptions,))
        space, arch = space_and_arch(settings.space, settings.arch)
        assert arch is None and space.check(space.largest()) and space.check(space.smallest())
        assert settings.task.data and (kind == "latency_dataset") == (data.lat_dataset_path is not None)
    assert capsys.readouterr().err == "", "a key without effect"


@pytest.mark.parametrize(("task", "ffn_dim"), [("multi30k.en-de", 1024), ("tatoeba.en-de", 1536)])
def test_spaces_hold_the_shapes_that_people_make(task: str, ffn_dim: int) -> None:
    space = SearchSpace.from_yaml(CONFIGS / task / "supertransformer/space1.yml")
    widths = zip(space.encoder.embed_choice, space.encoder.ffn_choice, strict=True)
    for (layers, depth), (width, ffn) in product([(6, 2), (12, 1), (12, 4), (6, 4), (3, 1)], widths):
        decoder = DecoderArch(width, (ffn,) * depth, (4,) * depth, (4,) * depth, (1,) * depth)
        assert space.check(Arch(EncoderArch(width, (ffn,) * layers, (4,) * layers), decoder))
    assert space.decoder.cross_span_choice == (1,) and space.encoder.embed_choice[0] == 256
    assert space.largest().encoder.ffn_dims[0] == ffn_dim


def test_architectures_are_those_of_the_table() -> None:
    files = release.release_files(released_models())
    assert len(files) == 44
    assert {path.relative_to(CONFIGS) for path in YAMLS if path.name.startswith("HAT_")} == files.keys()
    for path, text in files.items():
        assert (CONFIGS / path).read_text("utf-8") == text, f"run python tests/release_tables.py: {path}"


@pytest.mark.parametrize("model", SUBS, ids=lambda model: model.model_name)
def test_figures_follow_from_the_files(model) -> None:
    path = CONFIGS / model.task_name / "subtransformer" / f"{model.model_name}.yml"
    settings = settings_of(path, path.with_name("common.yml"))[0]
    space, arch = space_and_arch(settings.space, settings.arch)
    assert (arch.encoder.embed_dim, arch.decoder.embed_dim) == (
        model.encoder_embed_dim,
        model.decoder_embed_dim,
    )
    assert arch.decoder.ffn_dims == model.decoder_ffn_embed_dim
    assert f"{count_params(arch, space) / 1e6:.2f}" == f"{model.params_m:.2f}"
    assert abs(2 * count_macs(arch, space, settings.task.sentence_length()) / 1e9 - model.flops_g) < 0.006


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", ["super", "sub"])
def test_training_recipes(name: str, kind: str) -> None:
    task, folder = TASKS[name], CONFIGS / name
    path = folder / (task.super_yml if kind == "super" else "subtransformer/common.yml")
    s: Settings = settings_of(path)[0]
    assert (s.task.data, s.task.arch) == (f"data/binary/{task.data}", task.arch)
    assert (s.task.max_tokens, s.task.vocab_size) == (4096, task.vocab)
    assert s.task.sentence_length() == (23 if task.iwslt else 30)
    assert (s.task.source_lang, s.task.target_lang) == (("de", "en") if task.iwslt else (None, None))
    assert s.model.share_all_embeddings is not task.iwslt and not s.model.share_decoder_input_output_embed
    _check_space(s, (2048, 1024, 512) if task.iwslt else (3072, 2048, 1024), (4, 2) if task.iwslt else (8, 4))
    o, schedule = s.optim, s.schedule
    assert (o.optimizer, o.adam_betas, o.adam_eps, o.label_smoothing) == ("adam", (0.9, 0.98), 1e-8, 0.1)
    warmup = 10000 if kind == "super" else 4000
    assert (schedule.warmup_updates, schedule.warmup_init_lr) == (warmup, 1e-7)
    numbers = (o.weight_decay, o.clip_norm, o.update_freq, o.max_update)
    rates = (schedule.lr_scheduler, schedule.lr, schedule.max_lr)
    if task.iwslt:
        assert numbers == (1e-4, 25, 1, 50000) and rates == ("inverse_sqrt", 5e-4, None)
        assert (s.model.dropout, s.model.attention_dropout) == (0.375, 0)
    else:
        assert numbers == (0, 0, 16, 40000) and rates == ("cosine", 1e-7, 1e-3)
        assert (s.model.dropout, s.model.attention_dropout) == (0.3, 0.1)
    interval = task.super_interval if kind == "super" else task.sub_interval
    assert (s.loop.save_interval, s.loop.validate_interval, s.loop.keep_last_epochs) == (
        interval,
        interval,
        20,
    )
    assert (s.run.train_subtransformer, s.run.restore_file) == (kind == "sub", None)


def _check_space(s: Settings, ffn: tuple[int, ...], heads: tuple[int, ...]) -> None:
    space, _ = space_and_arch(s.space, s.arch)
    enc, dec = space.encoder, space.decoder
    for side in (enc, dec):
        assert (side.super_embed_dim, side.super_ffn_dim, side.super_layers) == (640, ffn[0], 6)
        assert (side.embed_choice, side.ffn_choice, side.self_heads_choice) == ((640, 512), ffn, heads)
    assert (enc.layers_choice, dec.layers_choice) == ((6,), (6, 5, 4, 3, 2, 1))
    assert (dec.cross_heads_choice, dec.cross_span_choice, space.qkv_dim) == (heads, (1, 2, 3), 512)


@pytest.mark.parametrize(("short", "device"), MEASURED)
def test_latency_and_search_recipes(short: str, device: str) -> None:
    folder, (iterations, norm, limit_ms, shown) = task_folder(short), DEVICES[device]
    task = TASKS[folder.name]
    s, data = settings_of(folder / f"latency_dataset/{device}.yml", own=(DatasetOptions,))
    _check_space(s, (3072, 2048, 1024, 512), (8, 4, 2))
    assert (s.task.data, s.task.sentence_length()) == (f"data/binary/{task.data}", 23 if task.iwslt else 30)
    assert (data.lat_dataset_path, data.lat_dataset_size) == (f"latency_dataset/{short}_{device}.csv", 2000)
    assert (s.profile.latiter, s.profile.latcpu) == (iterations, device.startswith("cpu"))
    assert s.profile.latgpu is not s.profile.latcpu and s.task.vocab_size == task.vocab
    path, options = folder / f"latency_predictor/{device}.yml", {"prog": "x", "description": ""}
    groups = (PredictorOptions, ReleaseOptions)
    cfg, old = parse([f"--configs={path}"], *groups, config_flags=("--configs",), **options)
    assert cfg.lat_dataset_path == f"latency_dataset/{short}_{device}_all.csv"
    assert cfg.ckpt_path == f"latency_dataset/predictors/{short}_{device}.pt"
    assert (old.feature_norm, old.lat_norm, old.feature_dim) == (NORM, norm, 10)
    assert (old.hidden_dim, old.hidden_layer_num, old.bsz, old.train_steps) == (400, 3, 128, 5000)
    hardware = device.split("_")[1]
    argv = [f"--configs={folder / task.super_yml}"]
    argv.append(f"--evo-configs={folder}/evo_search/{short}_{hardware}.yml")
    flags = ("--configs", "--evo-configs")
    s, search, evo = parse_settings(argv, SearchOptions, EvolutionConfig, config_flags=flags, **options)
    assert (evo.evo_iter, evo.population_size, evo.parent_size) == (30, 125, 25)
    assert (evo.mutation_size, evo.crossover_size, evo.mutation_prob) == (50, 50, 0.3)
    assert (search.latency_constraint, search.feature_norm, search.lat_norm) == ((limit_ms,), NORM, norm)
    assert search.ckpt_path == cfg.ckpt_path
    found = f"configs/{folder.name}/subtransformer/{short}_{hardware}@{shown}.yml"
    assert search.write_config_path == found
    assert s.run.restore_file == f"./downloaded_models/{SUPERS[folder.name].model_name}.pt"


def test_each_released_table_has_its_files_and_no_others() -> None:
    assert len(MEASURED) == 8
    for name, task in TASKS.items():
        devices = {device for short, device in MEASURED if short == task.short}
        for kind in ("latency_dataset", "latency_predictor"):
            assert devices <= {path.stem for path in (CONFIGS / name / kind).glob("*.yml")}
        beam = "--beam=5 --lenpen=1" if task.iwslt else "--beam=4 --lenpen=0.6"
        assert f"{name} {beam} --remove-bpe -- " in (CONFIGS / name / "test.sh").read_text()
        assert (CONFIGS / name / "average_checkpoint.sh").exists()
    assert "--batch-size=128" in (ROOT / "scripts/test.sh").read_text()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """A checkout in which nothing has been made or downloaded."""
    folder = tmp_path_factory.mktemp("fresh")
    for name in ("configs", "scripts"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "hat").symlink_to(ROOT / "hat")
    for name in TASKS:
        for script in ("preprocess.sh", "get_preprocessed.sh"):  # they have tests of their own
            (folder / "configs" / name / script).touch()
    return folder


def run(line: str, *extra: str) -> int:
    words = [word for word in shlex.split(line) if "CUDA_VISIBLE_DEVICES" not in word]
    if words[1:3] == ["-m", "hat"]:
        return load(words[3])([*words[4:], *extra])
    stem = Path(words[1]).stem.replace("_", "-")
    names = {"download-model": "download", "average-checkpoints": "average"}
    return load(names.get(stem, stem))([*words[2:], *extra])


SUB = "configs/wmt14.en-de/subtransformer/HAT_wmt14ende_raspberrypi@3.5s_bleu@25.8.yml"
IWSLT_SUB = "configs/iwslt14.de-en/subtransformer/HAT_iwslt14deen_titanxp@137.8ms_bleu@34.7.yml"
EVO = (
    "python evo_search.py --configs=configs/wmt14.en-de/supertransformer/space0.yml "
    "--evo-configs=configs/wmt14.en-de/evo_search/wmt14ende_titanxp.yml"
)
DATA = "make it with `bash configs/{0}/preprocess.sh` or `bash configs/{0}/get_preprocessed.sh`"
LATENCY_DATA = "`python download_model.py --latency-data`"
REFUSED = [  # commands of the release's README, and what makes that which is missing
    ("python train.py --configs=configs/wmt14.en-de/supertransformer/space0.yml", DATA.format("wmt14.en-de")),
    (
        EVO,
        "make it with `python latency_predictor.py "
        f"--configs=configs/wmt14.en-de/latency_predictor/gpu_titanxp.yml` or {LATENCY_DATA}",
    ),
    (
        "python train.py --configs=configs/wmt14.en-de/subtransformer/wmt14ende_titanxp@200ms.yml "
        "--sub-configs=configs/wmt14.en-de/subtransformer/common.yml",
        f"make it with `{EVO}`",
    ),
    (
        f"python train.py --configs={SUB.replace('25.8', '25.9')} "
        "--sub-configs=configs/wmt14.en-de/subtransformer/common.yml",
        f"did you mean {SUB}?",
    ),
    (
        f"python -m hat average --inputs=checkpoints/{SUB[8:-4]}",
        f"make it with `python train.py --configs={SUB} "
        "--sub-configs=configs/wmt14.en-de/subtransformer/common.yml`",
    ),
]


@pytest.mark.parametrize(("line", "how"), REFUSED)
def test_what_is_missing_is_named_with_the_command_that_makes_it(
    line, how, fresh, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(fresh)
    before = sorted(fresh.rglob("*"))
    assert run(line) == 2
    errors = capsys.readouterr().err.strip().split("\n")
    assert len(errors) == 1 and how in errors[0]
    assert sorted(fresh.rglob("*")) == before


def test_profiling_without_data_says_which_vocabulary_it_uses(fresh, monkeypatch, capsys) -> None:
    monkeypatch.chdir(fresh)
    common = IWSLT_SUB.replace(Path(IWSLT_SUB).name, "common.yml")
    line = f"python train.py --configs={IWSLT_SUB} --sub-configs={common} --profile-flops --json"
    assert run(line) == 0
    out, err = capsys.readouterr()
    assert "no data at data/binary/iwslt14_de_en: profiling with a vocabulary of 8848 and 6632" in err
    result = json.loads(out.splitlines()[-1])
    assert f"{result['params'] / 1e6:.2f}" == "27.33" and abs(result["flops"] / 1e9 - 1.32) < 0.006
