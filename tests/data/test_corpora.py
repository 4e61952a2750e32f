"""From published corpora to parallel text: markup, Moses steps, splitting, limits, BPE."""

import io
import random
from pathlib import Path

import pytest

from hat.cli.data import prepare as prepare_command
from hat.cli.data import split_pairs as split_command
from hat.data import corpora, subwords
from hat.data.corpora import Limits, PrepareConfig, clean_pairs, line_function, prepare, split_pairs
from hat.data.subwords import apply_bpe, learn_bpe
from hat.errors import ConfigError, DataError

sacremoses = pytest.importorskip("sacremoses")
ALL = {"normalize": True, "printable": True, "tokenize": True, "hyphens": "split", "lowercase": True}


@pytest.mark.parametrize(
    ("markup", "line", "expected"),
    [
        ("segments", '<seg id="1">Two words</seg>', "Two words"),
        ("segments", '<hl>  <seg id="3"> it\u2019s A &amp; B </seg></hl>', "it's A &amp; B"),  # entities stay
        ("segments", "<SEG ID=4>capitals, no quotes</SEG>", "capitals, no quotes"),
        ("segments", '<seg id="6"></seg>', ""),
        ("segments", "<doc docid=x>", None),
        ("talks", "<url>http://x</url>", None),
        ("talks", "<talkid>7</talkid>", None),
        ("talks", "<keywords>a, b</keywords>", None),
        ("talks", "<title>A: B</title>", "A: B"),
        ("talks", " D  <reviewer>", " D  <reviewer>"),
    ],
)
def test_sentences_in_markup(markup: str, line: str, expected: str | None) -> None:
    cfg = PrepareConfig("en", "fr", ("a",), ("b",), "c", markup=markup)
    assert cfg.extract(line, "en") == expected


@pytest.mark.parametrize(
    ("lang", "steps", "line", "expected"),
    [
        # by hand, from the rules of the Moses scripts
        ("en", "tokenize", "It's a well-known fact.", "It &apos;s a well-known fact ."),
        ("en", "tokenize split", "It's a well-known fact.", "It &apos;s a well @-@ known fact ."),
        ("fr", "tokenize", "L'eau, 3,5 %.", "L&apos; eau , 3,5 % ."),
        ("de", "tokenize", "z.B. [x] & a|b", "z.B. &#91; x &#93; &amp; a &#124; b"),
        ("en", "normalize", "\u201cyes\u201d\u2026 ( no ) 5 %", '"yes..." (no) 5%'),
        ("de", "normalize", "Er sagt \u201eja.\u201c", 'Er sagt "ja".'),
        ("en", "normalize", 'He says "yes",', 'He says "yes,"'),
        ("fr", "normalize", "\u00ab\u00a0oui\u00a0\u00bb 1\u00a0000", '"oui" 1,000'),
        ("en", "printable", "a\x07b\u200bc\ufeff", "a b c "),
        ("en", "printable", "\u2028 \u3000 \u00ad\ue000", "\u2028 \u3000   "),  # spaces are no control
        ("de", "lowercase", "\u00c4RGER Ma\u00df", "\u00e4rger ma\u00df"),
        ("el", "lowercase", "\u039f\u03a3 \u0130", "\u03bf\u03c3 i\u0307"),  # no final sigma, as Perl's lc
        ("en", "tokenize", "a\u2028b\x85c\rd\u00a0e", "a b c d e"),
    ],
)
def test_moses_steps(lang: str, steps: str, line: str, expected: str) -> None:
    step, _, split = steps.partition(" ")
    assert line_function(lang, step, hyphens=split or "keep")(line) == expected


def random_lines(count: int) -> list[str]:
    rng = random.Random(5)
    pieces = (
        *"abcXYZ0129 .,;:!?'\"()[]{}<>&|-%$#@*/\\`_~^=+",
        *"\u00e4\u00df\u00e9\u0153\u0430\u4e2d\u2019\u201c\u2013\u00ab\u00a0\u20ac\u2026\u00ad\U0001f600",
        *(" Mr. ", " z.B. ", " U.S.A. ", " No. 5 ", "don't ", "l'eau ", "--", "...", " http://a.b/c ", "\t"),
    )
    return ["".join(rng.choice(pieces) for _ in range(rng.randrange(60))) for _ in range(count)]


@pytest.mark.parametrize("lang", ["en", "de", "fr"])
def test_tokens_are_those_of_sacremoses(lang: str) -> None:
    moses = sacremoses.MosesTokenizer(lang=lang)
    for split in (False, True):
        run = line_function(lang, "tokenize", hyphens="split" if split else "keep")
        for line in random_lines(60):
            assert run(line).split() == moses.tokenize(line, aggressive_dash_splits=split), line
    normalizer = sacremoses.MosesPunctNormalizer(lang=lang, perl_parity=True)
    run = line_function(lang, "normalize")
    assert all(run(line) == normalizer.normalize(line + "\n") for line in random_lines(100))


def config(output: Path, source: list[Path], target: list[Path], **changes: object) -> PrepareConfig:
    inputs = tuple(map(str, source)), tuple(map(str, target))
    return PrepareConfig("en", "fr", *inputs, str(output), **{**ALL, **changes})


def test_any_number_of_workers_gives_the_same_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = random_lines(300)
    (tmp_path / "a").write_text("".join(line + "\n" for line in lines), "utf-8", newline="\n")
    monkeypatch.setattr(corpora, "CHUNK_BYTES", 2000)
    for workers in (1, 2):
        cfg = config(tmp_path / str(workers), [tmp_path / "a"], [tmp_path / "a"], workers=workers)
        assert prepare(cfg) == ([300], 0)
    for lang in ("en", "fr"):
        run = cfg.steps(lang)
        expected = "".join(run(line) + "\n" for line in lines).encode()
        assert (tmp_path / f"1.{lang}").read_bytes() == (tmp_path / f"2.{lang}").read_bytes() == expected


def test_both_texts_or_none(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"one\ntwo\n")
    other.write_bytes(b"eins\n")
    (tmp_path / "out.en").write_bytes(b"before\n")
    with pytest.raises(DataError, match="a has 2 sentences but .*b has 1"):
        prepare(config(tmp_path / "out", [one], [other]))
    with pytest.raises(ConfigError, match="2 and 1 files"):
        config(tmp_path / "out", [one, one], [other])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "out.en"]
    assert (tmp_path / "out.en").read_bytes() == b"before\n"


def test_prepare_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "a").write_bytes(b"one\tEins\nbad \xff\tZwei\n")
    flags = ["--source-lang=en", "--target-lang=de", f"--output={tmp_path}/out", "--markup=columns"]
    flags += [f"--source-inputs={tmp_path}/a", f"--target-inputs={tmp_path}/a", "--lowercase"]
    assert prepare_command(flags) == 2
    assert "a:2 is not UTF-8" in capsys.readouterr().err
    assert prepare_command([*flags, "--replace-invalid"]) == 0
    assert "2 pairs\n" in (out := capsys.readouterr().out) and "1 lines have bytes" in out
    assert (tmp_path / "out.en").read_text("utf-8") == "one\nbad \ufffd\n"
    assert (tmp_path / "out.de").read_text("utf-8") == "eins\nzwei\n"
    for wrong in ("<seg id='1'>cut", '<seg id="1">a</seg><seg id="2">b</seg>'):
        (tmp_path / "a").write_text(f"one\n{wrong}\n")
        assert prepare_command([*flags, "--markup=segments"]) == 2
        assert "a:2: cannot read the segment" in capsys.readouterr().err


def test_every_nth_pair_of_the_joined_text(tmp_path: Path) -> None:
    pairs = []
    for name, numbers in (("x", range(1, 5)), ("y", range(5, 12))):
        pairs.append((tmp_path / f"{name}.en", tmp_path / f"{name}.de"))
        for path in pairs[-1]:
            path.write_text("\n".join(f"{n}{path.suffix}" for n in numbers))  # no newline at the end
    out = [(tmp_path / f"{name}.en", tmp_path / f"{name}.de") for name in ("train", "valid")]
    assert split_pairs(pairs, out[0], out[1], 3) == (8, 3)
    assert out[1][1].read_text() == "3.de\n6.de\n9.de\n"
    assert out[0][0].read_text().split() == [f"{n}.en" for n in (1, 2, 4, 5, 7, 8, 10, 11)]
    assert split_pairs(pairs, out[0]) == (11, 0)
    assert split_pairs(pairs, out[0], out[1], 10) == (10, 1) and out[1][0].read_text() == "10.en\n"
    assert split_pairs(pairs, out[0], out[1], 12) == (10, 1) and out[1][0].read_text() == "11.en\n"
    for every, valid in ((1, out[1]), (0, out[1]), (3, None)):
        with pytest.raises(ConfigError, match="2 or more"):
            split_pairs(pairs, out[0], valid, every)
    pairs[0][1].write_text("1\n2\n3\n")
    with pytest.raises(DataError, match="has 4 lines but .* has 3"):
        split_pairs(pairs, out[0], out[1], 3)
    assert out[0][0].read_text().startswith("1.en\n2.en\n3.en\n")  # as before


def test_drawn_pairs_share_no_sentence_with_training(tmp_path: Path) -> None:
    (tmp_path / "x.en").write_text("".join(f"{n // 2}.en\n" for n in range(40)))  # two translations of each
    (tmp_path / "x.de").write_text("".join(f"{n}.de\n" for n in range(40)))
    flags = [f"--inputs={tmp_path / 'x'}", "--source-lang=en", "--target-lang=de", "--held-out=3"]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        splits = [f"--{split}={tmp_path / name / split}" for split in ("train", "valid", "test")]
        assert split_command([*flags, *splits, f"--seed={seed}"]) == 0
    read = {path.relative_to(tmp_path).as_posix(): path.read_text().split() for path in tmp_path.glob("*/*")}
    held = {*read["a/valid.en"], *read["a/test.en"]}
    assert len(read["a/valid.de"]) == len(read["a/test.de"]) == 3 and held.isdisjoint(read["a/train.en"])
    assert len(read["a/train.en"]) == 40 - 2 * len(held)
    assert read["a/train.en"] == read["b/train.en"] != read["c/train.en"]
    assert split_command([*flags, splits[0], "--every=2"]) == 2


def test_cleaning_copies_the_pairs_within_the_limits(tmp_path: Path) -> None:
    keep = Limits(max_length=5, ratio=1.5, max_word_length=10).keep
    for pair in (("a b c", "a b"), ("a b c d e", "a b c d e")):  # exactly 1.5, exactly 5
        assert keep(*pair) and keep(*pair[::-1])
    for pair in (("a b c d", "a b"), ("a", ""), ("a b c d e f", "a b c d e f"), ("a" * 11, "b")):
        assert not keep(*pair) and not keep(*pair[::-1])
    paths, out = (tmp_path / "a.en", tmp_path / "a.de"), (tmp_path / "b.en", tmp_path / "b.de")
    paths[0].write_bytes(b"one two\n\ntwo\nthree\n")
    paths[1].write_bytes(b"eins zwei\nx\nzwei drei\n \t\n")
    assert clean_pairs(paths, out, Limits()) == (2, 2)
    assert clean_pairs(paths, out, Limits(ratio=1.5)) == (1, 3)
    assert out[1].read_text() == "eins zwei\n"
    paths[1].write_bytes(b"eins\n")
    with pytest.raises(DataError, match="has 4 lines but .* has 1"):
        clean_pairs(paths, out, Limits())
    assert out[1].read_text() == "eins zwei\n"  # as before


def test_bpe_is_that_of_subword_nmt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = pytest.importorskip("subword_nmt.learn_bpe")
    from subword_nmt.apply_bpe import BPE

    rng = random.Random(3)
    words = ["".join(rng.choice("abcd\u00e4") for _ in range(1 + rng.randrange(7))) for _ in range(60)]
    files = [tmp_path / "t.en", tmp_path / "t.de"]
    for path in files:
        lines = [" ".join(rng.choice(words) for _ in range(rng.randrange(9))) for _ in range(80)]
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    text, expected = "".join(path.read_text("utf-8") for path in files), io.StringIO()
    reference.learn_bpe(io.StringIO(text), expected, 50)
    monkeypatch.setattr(subwords, "APPLY_CHUNK", 500)
    for workers in (1, 2):
        assert learn_bpe(files, tmp_path / "codes", 50, workers) == 50
        assert (tmp_path / "codes").read_text("utf-8") == expected.getvalue()
        apply_bpe(tmp_path / "codes", files, tmp_path / "out", workers)
        bpe = BPE(io.StringIO(expected.getvalue()))
        for path in files:
            lines = path.read_text("utf-8").splitlines()
            applied = (tmp_path / "out" / path.name).read_text("utf-8")
            assert applied == "".join(bpe.process_line(line) + "\n" for line in lines)


def test_bpe_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"a b\n\n")
    with pytest.raises(DataError, match="two or more characters"):
        learn_bpe([tmp_path / "t"], tmp_path / "codes", 5)
    for codes in (b"", b"#version: 0.2\n", b"a b\n", b"#version: 0.2\na b\nc\n", b"#version: 0.2\na b c\n"):
        (tmp_path / "codes").write_bytes(codes)
        with pytest.raises(DataError, match="no file of merges"):
            apply_bpe(tmp_path / "codes", [tmp_path / "t"], tmp_path / "out")
    with pytest.raises(ConfigError, match="another folder"):
        apply_bpe(tmp_path / "codes", [tmp_path / "t"], tmp_path)
    with pytest.raises(DataError, match="cannot read"):
        apply_bpe(tmp_path / "no codes", [tmp_path / "t"], tmp_path / "out")
