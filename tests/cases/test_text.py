"""Text as people have it: rows C6 to C9, C12, C14 to C16 of the cases, and siblings of each."""

import re
from pathlib import Path

import pytest

from hat.cli.translate import score
from hat.decode.score import check_tokenizer, scores, tokenizer_of
from hat.errors import ConfigError

ROOT = Path(__file__).parents[2]

LANGUAGES = {
    "zh": "zh zh_CN zh-TW zh_Hant zho chi cmn yue wuu zh-Hans-CN ZH_cn lzh cn",
    "ja-mecab": "ja jpn ja_JP jpn_Jpan JA jp",
    "ko-mecab": "ko kor ko-KR kor_Hang",
    "char": "th tha th_TH lo lao lao_Laoo km khm km_KH khm_Khmr my mya bur my-MM bo bod tib dz dzo shn",
    "13a": "de deu en_TH fr-CA es_419 ru vi id zh_Latn ja-Latn th-Latn-TH sr-Latn mya_Latn xx tr_TR mo",
}


@pytest.fixture
def no_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of sacrebleu in which nothing was downloaded."""
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("lang", "name"), [(lang, name) for name, langs in LANGUAGES.items() for lang in langs.split()]
)
def test_c7_each_code_of_a_language_has_its_tokeniser(lang: str, name: str, no_downloads: Path) -> None:
    assert tokenizer_of(lang) == name


def test_c7_a_model_that_is_there_is_taken(no_downloads: Path) -> None:
    (no_downloads / "models").mkdir()
    (no_downloads / "models/flores200sacrebleuspm").touch()
    assert (tokenizer_of("km"), tokenizer_of("zh"), tokenizer_of("de")) == ("flores200", "zh", "13a")


@pytest.mark.parametrize(("lang", "name"), [("th", "char"), ("zh_TW", "zh")])
def test_c7_text_without_spaces_is_scored(lang: str, name: str, no_downloads: Path) -> None:
    text = {"th": "สุนัขสองตัววิ่ง", "zh_TW": "两只狗在跑步"}[lang]
    found = scores([text], [text[:-1]], "sacre", lang)
    assert found.bleu > 50 and f"tok:{name}" in found.signature
    assert found.ter < 50 and found.ter_signature.endswith(f"split:{name}") and found.chrf > 50
    assert scores([text], [text[:-1]], "sacre", "de").bleu == 0


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


def test_c6_the_extras_are_those_of_sacrebleu() -> None:
    setup = (ROOT / "setup.py").read_text("utf-8")
    assert '"ja": ["sacrebleu[ja]"]' in setup and '"ko": ["sacrebleu[ko]"]' in setup
