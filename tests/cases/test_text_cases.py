"""Text as people have it: rows C6 to C9, C12, C14 to C16 of the cases, and siblings of each."""

import bz2
import gzip
import json
import lzma
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hat.cli.data import new_task, preprocess
from hat.cli.translate import generate, score, translate
from hat.config import read_config
from hat.data.corpora import detokenizer, line_function
from hat.data.dataset import Dataset
from hat.data.subwords import apply_bpe, learn_bpe
from hat.data.text import read_lines
from hat.data.vocab import UNK, Vocab
from hat.decode.score import bleu, check_tokenizer, parse_output, tokenizer_of
from hat.errors import ConfigError, DataError, foreign
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import DecoderSpace, EncoderSpace, SearchSpace
from hat.train.checkpoint import pack, save

ROOT = Path(__file__).parents[2]
SPACE = SearchSpace(
    EncoderSpace(8, 8, 1, (8,), (8,), (1,), (2,)),
    DecoderSpace(8, 8, 1, (8,), (8,), (1,), (2,), (2,), (1,)),
    8,
)

LANGUAGES = {
    "zh": "zh zh_CN zh-TW zh_Hant zho chi cmn yue wuu zh-Hans-CN ZH_cn lzh cn",
    "ja-mecab": "ja jpn ja_JP jpn_Jpan JA jp",
    "ko-mecab": "ko kor ko-KR kor_Hang",
    "char": "th tha th_TH lo lao lao_Laoo km khm km_KH khm_Khmr my mya bur my-MM bo bod tib dz dzo shn",
    "13a": "de deu en_TH fr-CA es_419 ru vi id zh_Latn ja-Latn th-Latn-TH sr-Latn mya_Latn xx tr_TR mo",
}


@pytest.mark.parametrize("lang", ["fr", "fr_CA", "fra", "fre", "FR-ca"])
def test_c7_moses_rules_of_a_language_do_not_depend_on_its_code(lang: str) -> None:
    pytest.importorskip("sacremoses")
    assert line_function(lang, "tokenize")("L'eau est là.") == "L&apos; eau est là ."
    assert detokenizer(lang)("l&apos; eau est là .") == "l'eau est là."


def test_c7_each_code_of_a_language_has_its_tokeniser() -> None:
    for name, langs in LANGUAGES.items():
        assert {lang: tokenizer_of(lang) for lang in langs.split()} == dict.fromkeys(langs.split(), name)


@pytest.mark.parametrize(("lang", "name"), [("th", "char"), ("zh_TW", "zh")])
def test_c7_text_without_spaces_is_scored(lang: str, name: str) -> None:
    text = {"th": "สุนัขสองตัววิ่ง", "zh_TW": "两只狗在跑步"}[lang]
    found = bleu([text], [text[:-1]], "sacre", lang)
    assert found.bleu > 50 and f"tok:{name}" in found.signature
    assert found.ter < 50 and found.ter_signature.endswith(f"split:{name}") and found.chrf > 50
    assert bleu([text], [text[:-1]], "sacre", "de").bleu == 0


@pytest.mark.parametrize(("lang", "extra"), [("ja", "ja"), ("jpn", "ja"), ("kor", "ko"), ("ko_KR", "ko")])
def test_c6_a_missing_package_is_named_by_our_extra(
    lang: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("ja", "ko"):
        monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{name}_mecab.MeCab", None)
    with pytest.raises(ConfigError, match=rf"pip install 'hardware-aware-transformers\[{extra}\]'"):
        check_tokenizer(lang)
    (tmp_path / "out").write_text("T-0\ta\nH-0\t-1\ta\n")
    assert score([f"--gen-output={tmp_path}/out", "--mode=sacre", f"--target-lang={lang}"]) == 2
    assert re.fullmatch(rf"ConfigError: .*\[{extra}\]'\n", capsys.readouterr().err)


RU = "красный автобус стоит здесь\nдве собаки бегут\nмальчик читает книгу\n"
DE = "ein roter Bus hält hier\ndie Straße führt übers Land\nwir hören schöne Musik\n"
ZH = "一辆红色的公共汽车停在这里\n两只狗在跑步\n男孩在读一本书\n"
JA = "赤いバスがここに止まる\n二匹の犬が走る\n男の子が本を読む\n"
BOM = "\ufeff"


def advised(message: str) -> str:
    """Return the command in a message."""
    found = re.search(r"`(.+?)`", message)
    assert found, message
    return found[1]


ENCODED: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "gzip": (RU, lambda text: gzip.compress(text.encode())),
    "bzip2": (RU, lambda text: bz2.compress(text.encode())),
    "xz": (RU, lambda text: lzma.compress(text.encode())),
    "UTF-16": (RU, lambda text: (BOM + text).encode("utf-16-le")),
    "UTF-16 ": (ZH, lambda text: (BOM + text).encode("utf-16-be")),
    "UTF-16LE": (RU, lambda text: text.encode("utf-16-le")),
    "UTF-16LE,": (ZH, lambda text: text.encode("utf-16-le")),
    "UTF-16BE": (RU, lambda text: text.encode("utf-16-be")),
    "UTF-32": (DE, lambda text: (BOM + text).encode("utf-32-le")),
    "UTF-32BE": (ZH, lambda text: text.encode("utf-32-be")),
    "CP1251": (RU, lambda text: text.encode("cp1251")),
    "KOI8-R": (RU, lambda text: text.encode("koi8-r")),
    "CP1252": (DE, lambda text: text.encode("latin-1")),
    "GB18030": (ZH, lambda text: text.encode("gb18030")),
    "EUC-JP": (JA, lambda text: text.encode("euc-jp")),
    "CR alone": (DE, lambda text: text.replace("\n", "\r").encode()),
    "a NUL": (DE, lambda text: text.replace("\nd", "\n\0d").encode()),
    "drop such bytes": (RU, lambda text: text.encode().replace(b" ", b" \xff", 1)),
}


@pytest.mark.parametrize("name", ENCODED)
def test_c8_an_encoding_is_named_and_the_command_converts_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, encode = ENCODED[name]
    Path("it's a.ru").write_bytes(content := encode(text))
    with pytest.raises(DataError) as refused:
        list(read_lines("it's a.ru"))
    assert name in f"{refused.value} ", refused.value
    subprocess.run(["bash", "-c", advised(str(refused.value))], check=True)
    assert list(read_lines("it's a.ru")) == text.split("\n")[:-1]
    assert Path("it's a.ru.old").read_bytes() == content, "the file as it was"


def test_c8_standard_input_is_converted_in_the_pipe() -> None:
    found = foreign("/dev/stdin", RU.encode("utf-16"))
    assert found == "is UTF-16, not UTF-8; convert it with `iconv -f UTF-16 -t UTF-8` before it"


def test_c8_a_utf16_configuration(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    for code in ("utf-16", "utf-16-be", "cp1251"):
        path.write_bytes("data: данные здесь\ncpu: True\n".encode(code))
        with pytest.raises(ConfigError, match=r"a\.yml:1: the (file is UTF-16|line is not UTF-8)") as refused:
            read_config(path)
        subprocess.run(["bash", "-c", advised(str(refused.value))], check=True)
        assert read_config(path) == {"data": "данные здесь", "cpu": "True"}


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the working directory, with a parallel text in plain UTF-8."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda fd: None)
    write(ru=RU, de=DE)
    return tmp_path


def write(name: str = "train", **texts: str | bytes) -> None:
    for lang, text in texts.items():
        Path(f"{name}.{lang}").write_bytes(text if isinstance(text, bytes) else text.encode())


def binary(folder: str, *more: str, code: int = 0) -> Dataset | None:
    """Return the data that `hat preprocess` makes of the texts train.*, if it should."""
    argv = ["--source-lang=ru", "--target-lang=de", f"--destdir={folder}", *more]
    argv += [] if any("trainpref" in word for word in more) else ["--trainpref=train"]
    assert preprocess(argv) == code
    return None if code else Dataset.load(folder)


def ids(data: Dataset, split: str = "train") -> list[list[int]]:
    """Return the ids of the source sentences of a split."""
    pairs = data.split(split)
    return [pairs.source[number].tolist() for number in range(len(pairs))]


def test_c8_a_byte_order_mark_is_no_word(raw: Path) -> None:
    plain = binary("plain")
    write(ru=BOM + RU.replace("две", BOM + "две"), de=(BOM + DE).replace("\n", "\r\n"))
    marked = binary("marked")
    assert marked.digests == plain.digests and ids(marked) == ids(plain)
    for path in ("dict.ru.txt", "dict.de.txt"):
        text = Path("plain", path).read_text("utf-8")
        Path(path).write_text(BOM + text, "utf-8")
    again = binary("again", "--srcdict=dict.ru.txt", "--tgtdict=dict.de.txt")
    assert again.digests == plain.digests and ids(again) == ids(plain)
    Path("again/dict.ru.txt").write_text(Path("dict.ru.txt").read_text("utf-8"), "utf-8")
    assert list(Vocab.load("again/dict.ru.txt")) == list(plain.vocabs[0])


SPACES = "\u00a0\u202f\u3000\u2009\u2002\u205f\u1680\u2028\u2029\x85\x0b\x0c\x1c\t"


@pytest.mark.parametrize("space", SPACES)
def test_c8_spaces_of_all_kinds_separate_words(space: str, raw: Path) -> None:
    plain, pieces = binary("plain"), binary("pieces", "--sentencepiece=70")
    write(ru=RU.replace(" ", space), de=DE.replace(" ", f" {space}"))
    for name, known in (("plain", plain), ("pieces", pieces)):
        wide = binary(f"{name}2", *(["--sentencepiece=70"] if name == "pieces" else []))
        assert wide.digests == known.digests and ids(wide) == ids(known)
    assert bleu([f"a b{space}c d"], ["a b c d"], "normal").bleu == pytest.approx(100)
    assert bleu([f"a b{space}c d"], ["a b c d"], "sacre", "de").bleu == pytest.approx(100)


def test_c14_new_text_gets_the_model_of_its_dictionary(raw: Path, capsys: pytest.CaptureFixture) -> None:
    write("new", ru="мальчик идёт здесь\n", de="wir hören den Bus\n")
    made = binary("made", "--sentencepiece=70", "--joined-dictionary", "--testpref=new")
    dicts = "--srcdict=made/dict.ru.txt", "--tgtdict=made/dict.de.txt"
    capsys.readouterr()
    new = binary("later", "--testpref=new", "--trainpref=train", *dicts)
    assert ids(new, "test") == ids(made, "test") and ids(new) == ids(made) and new.digests == made.digests
    assert "[ru] new.ru: 1 sentences" in (said := capsys.readouterr().out)
    assert said.count("split by sentencepiece.model") == 4
    assert new.split("test").raw_target() == ["wir hören den Bus"]
    assert new.codec.encode("мальчик идёт здесь").tolist() == ids(made, "test")[0]
    # text that is split already is not split again
    pairs = made.split("test")
    for lang, vocab, side in zip(("ru", "de"), made.vocabs, (pairs.source, pairs.target), strict=True):
        write("split", **{lang: vocab.decode(side[0]) + "\n"})
    again = binary("again", "--testpref=split", "--trainpref=train", *dicts)
    assert ids(again, "test") == ids(made, "test")
    assert capsys.readouterr().out.count("taken as split already") == 2


def test_c14_a_missing_or_foreign_model_is_an_error(raw: Path, capsys: pytest.CaptureFixture) -> None:
    for folder, pieces in (("made", 70), ("other", 65)):
        binary(folder, f"--sentencepiece={pieces}")
    both = "--srcdict=made/dict.ru.txt", "--tgtdict=other/dict.de.txt"
    assert binary("new", *both, code=2) is None
    assert "different subword models" in capsys.readouterr().err
    Path("made/sentencepiece.model").unlink()
    assert binary("new", both[0], "--tgtdict=made/dict.de.txt", code=2) is None
    assert "put sentencepiece.model" in capsys.readouterr().err and not Path("new").exists()


WORDS = ["".join(chr(0x4E00 + (7 * i + k) % 90) for k in range(6)) for i in range(60)]
CHINESE = [(word, f"word{i % 9} b{i}") for i, word in enumerate(WORDS)]


def new_task_argv(folder: Path, *more: str) -> list[str]:
    """Return the arguments of `hat new-task` for a Chinese corpus, in a folder with the tasks of HAT."""
    (folder / "configs").mkdir()
    (folder / "configs/toy.en-de").symlink_to(ROOT / "configs/toy.en-de")
    for side, lang in enumerate(("zh", "en")):
        write("corpus", **{lang: "".join(f"{pair[side]}\n" for pair in CHINESE)})
    argv = ["--name=mine.zh_TW-en", "--template=toy.en-de", "--source=corpus.zh", "--target=corpus.en"]
    return [*argv, *more]


def test_c15_the_flag_that_was_given_is_named(raw: Path, capsys: pytest.CaptureFixture) -> None:
    argv = new_task_argv(raw, "--held-out=5")
    assert new_task([*argv, "--pieces=60"]) == 2
    said = capsys.readouterr().err
    assert "--pieces 60" in said and "--sentencepiece" not in said
    least = re.search(r"alone need (\d+)", said)[1]
    assert new_task([*argv[:-1], "--held-out=50", f"--pieces={least}"]) == 2
    assert "lower --held-out" in capsys.readouterr().err
    assert not Path("configs/mine.zh_TW-en").exists() and not Path("data").exists()
    assert new_task([*argv, f"--pieces={least}"]) == 0
    splits = [f"--{split}pref=data/raw/mine.zh_TW-en/{split}" for split in ("train", "test")]
    argv = ["--source-lang=zh_TW", "--target-lang=en", "--destdir=out", "--joined-dictionary", *splits]
    assert preprocess([*argv, f"--sentencepiece={int(least) - 1}"]) == 2
    said = capsys.readouterr().err
    assert f"--sentencepiece {int(least) - 1}" in said and f"need {least}" in said
    assert preprocess([*argv, f"--sentencepiece={least}"]) == 0, "the advice works; the number is the least"


@pytest.fixture
def model(raw: Path) -> list[str]:
    """Flags of a tiny model with 60 positions, and of its data."""
    data = binary("data", "--sentencepiece=70", "--joined-dictionary", "--testpref=train")
    cfg = ModelConfig(max_source_positions=60, max_target_positions=60)
    save(pack(SuperTransformer(SPACE, data.vocab_sizes, cfg), data.digests), raw / "m.pt")
    return ["--path=m.pt", "--data=data", "--cpu", "--max-len-a=0", "--max-len-b=5", "--beam=1"]


def test_c9_a_long_sentence_is_named_by_its_line_and_the_advice_works(
    raw: Path, model: list[str], capsys: pytest.CaptureFixture
) -> None:
    write("long", ru=RU + "собака " * 20 + "\nбегут\n", de=DE + "Hund\nwir\n")
    binary("long", "--testpref=long", "--srcdict=data/dict.ru.txt", "--tgtdict=data/dict.de.txt")
    argv = [word for word in model if "data" not in word] + ["--data=long", "--results-path=out"]
    capsys.readouterr()
    assert generate(argv) == 2 and not Path("out").exists()
    said = capsys.readouterr().err
    assert "line 4 of the source text has" in said and "--max-tokens" not in said
    tokens = re.search(r"has (\d+) tokens", said)[1]
    assert "raise --max-source-positions" in said
    assert generate([*argv, f"--max-source-positions={tokens}"]) == 0
    assert translate(["--model=m.pt", "--data=data", "--input=long.ru", "--beam=1", "--max-len-b=5"]) == 0
    assert "translated in parts: 1" in capsys.readouterr().err


def test_c14_plain_text_is_translated(
    raw: Path, model: list[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generate([*model, "--remove-bpe=sentencepiece", "--results-path=out"]) == 0
    found, _ = parse_output(read_lines("out"), "out")
    capsys.readouterr()
    write("new", ru=BOM + RU.replace(" ", "\u3000").replace("\n", "\r\n"))
    words = ["--model=m.pt", "--data=data", "--max-len-b=5", "--beam=1", "--precision=fp32"]
    assert translate([*words, "--input=new.ru", "--output=text"]) == 0
    assert list(read_lines("text")) == found
    before = Path("new.ru").read_bytes()
    assert translate([*words, "--input=new.ru", "--output=./new.ru"]) == 2
    assert "is the text to translate" in capsys.readouterr().err and Path("new.ru").read_bytes() == before
    Path("data/sentencepiece.model").unlink()
    assert translate([*words, "--input=new.ru"]) == 2
    assert "sentencepiece.model, the subword model of the dictionaries, is missing" in capsys.readouterr().err


def test_c14_a_dictionary_without_symbols_is_refused(raw: Path, capsys: pytest.CaptureFixture) -> None:
    Path("empty.txt").write_text("")
    binary("data", "--srcdict=empty.txt", "--joined-dictionary", "--testpref=train", code=2)
    assert "empty.txt holds no symbols" in capsys.readouterr().err and not Path("data").exists()


def test_c6_a_missing_tokeniser_is_found_before_translating(
    raw: Path, model: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    argv = [word for word in model if "data" not in word]
    for path in Path("data").glob("*"):
        path.rename(path.with_name(path.name.replace("de", "ja").replace("inja", "inde")))
    Path("data/SHA256SUMS").unlink()
    argv += ["--data=data", "--results-path=out"]
    assert generate([*argv, "--mode=sacre"]) == 2 and not Path("out").exists()
    assert "hardware-aware-transformers[ja]" in capsys.readouterr().err
    assert generate([*argv, "--mode=normal"]) == 0


@pytest.mark.parametrize(
    "line", ["data: data  # a comment", 'data: "data"', "data: 'data'\r", "data: data\r"]
)
def test_c12_a_configuration_is_read_as_yaml_wherever_it_is_read(
    line: str, raw: Path, model: list[str], capsys: pytest.CaptureFixture
) -> None:
    Path("common.yml").write_bytes(f"{line}\n".encode())
    argv = [word for word in model if "data" not in word]
    assert generate([*argv, "--configs=common.yml", "--results-path=out"]) == 0
    words = ["--gen-output=out", "--configs=common.yml", "--mode=sacre", "--remove-bpe=sentencepiece"]
    capsys.readouterr()
    assert score([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert {"bleu", "signature", "mode", "chrf", "chrf_signature", "ter", "ter_signature"} <= found.keys()


def test_c14_a_dictionary_of_bpe_takes_moses_tokens(raw: Path) -> None:
    pytest.importorskip("subword_nmt")
    pytest.importorskip("sacremoses")
    write("plain", ru="Собака, собака бежит!\n", de="Der Hund, der Hund läuft!\n")
    write(ru="Собака , собака бежит !\n", de="Der Hund , der Hund läuft !\n")
    learn_bpe([Path("train.ru"), Path("train.de")], Path("codes"), 8)
    apply_bpe(Path("codes"), [Path("train.ru"), Path("train.de")], Path("split"))
    made = binary("made", "--trainpref=split/train", "--bpe-codes=codes")
    dicts = "--srcdict=made/dict.ru.txt", "--tgtdict=made/dict.de.txt"
    new = binary("later", "--trainpref=split/train", "--testpref=plain", *dicts)
    assert ids(new, "test") == ids(made) == ids(new) and UNK not in ids(new)[0]
