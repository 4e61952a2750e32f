"""Tiny archives with the member paths, markup and columns of the public corpora of the 2020 release."""

import gzip
import io
import itertools
import random
import tarfile
import zipfile
from pathlib import Path

WORDS = {
    "en": "house Garden sees well-known children don't water (perhaps) newer \u201cquote\u201d",
    "de": "Haus Garten sieht wohl-bekannt Kinder nicht Wasser (vielleicht) neuer \u201eZitat\u201c",
    "fr": "maison jardin voit bien-connu enfants n'est eau (peut) nouveau \u00ab\u00a0mot\u00a0\u00bb",
}


def sentences(lang: str, seed: int, count: int) -> list[str]:
    """Return sentences in `lang`; the same seed and count give their translations in another language."""
    rng, words = random.Random(seed), WORDS[lang].split(" ")
    return [" ".join(rng.choice(words) for _ in range(3 + rng.randrange(6))) + "." for _ in range(count)]


def text(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def sgml(lines: list[str], kind: str) -> bytes:
    segs = [f'<seg id="{number}">{line}</seg>' for number, line in enumerate(lines, 1)]
    head = [f'<{kind} setid="newstest" srclang="any">', '<doc docid="d" genre="news">', "<hl>"]
    return text([*head, *segs, "</hl>", "</doc>", f"</{kind}>"])


def talks(lines: list[str], lang: str) -> bytes:
    head = ["<url>http://www.ted.com/x</url>", "<keywords>talks, any</keywords>", "<talkid>1</talkid>"]
    tagged = [f"<title>{lang}: A Title</title>", f"<description>{lang}: What it says</description>"]
    return text([*head, *tagged, *lines])


def tgz(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in {"README": b"none of ours\n", **members}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def packed(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content))


def dictionary(path: Path) -> None:
    """Write a dictionary of single letters and some subwords, as a given one is: in its own order."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.()&;-@"
    pieces = [*letters, *(f"{letter}@@" for letter in letters), "Haus", "house", "maison", "&quot;"]
    path.write_bytes(text([f"{piece} {1000 - number}" for number, piece in enumerate(dict.fromkeys(pieces))]))


def wmt14_en_de(folder: Path) -> None:
    members, counts = {}, {"train.tok.clean": 40, "newstest2013.tok": 5, "newstest2014.tok": 6}
    for (name, count), lang in itertools.product(counts.items(), ("en", "de")):
        members[f"{name}.bpe.32000.{lang}"] = text(sentences(lang, count, count))
    members["vocab.bpe.32000"] = b"not wanted\n"
    tgz(folder / "wmt16_en_de.tar.gz", members)


def wmt14_en_fr(folder: Path, count: int = 560) -> None:
    """Write 5 corpora of `count` pairs each; the UN's first pair is too long, its second half empty."""
    corpora = {
        "training-parallel-europarl-v7.tgz": "training/europarl-v7.fr-en",
        "training-parallel-commoncrawl.tgz": "commoncrawl.fr-en",
        "training-parallel-un.tgz": "un/undoc.2000.fr-en",
        "training-parallel-nc-v9.tgz": "training/news-commentary-v9.fr-en",
    }
    for number, (archive, name) in enumerate(corpora.items()):
        members = {}
        for lang in ("en", "fr"):
            lines = sentences(lang, number, count)
            if name.startswith("un/"):
                lines[:2] = ["word " * 300, "" if lang == "en" else "vide"]
            members[f"{name}.{lang}"] = text(lines)
            members[f"{name}.cs"] = b"another pair\n"
        if "commoncrawl" in name:
            members[f"{name}.en"] = members[f"{name}.en"].replace(b"house", b"ho\xffuse", 1)
        tgz(folder / archive, members)
    both = {lang: gzip.compress(text(sentences(lang, 9, count))) for lang in ("en", "fr")}
    giga = {f"giga-fren.release2.fixed.{lang}.gz": packed for lang, packed in both.items()}
    tgz(folder / "training-giga-fren.tar", giga, "w")
    tests = {
        f"test-full/newstest2014-fren-{kind}.{lang}.sgm": sgml(sentences(lang, 7, 6), f"{kind}set")
        for kind, lang in (("src", "en"), ("ref", "fr"), ("ref", "en"), ("src", "fr"))
    }
    tgz(folder / "test-full.tgz", tests)
    dictionary(folder / "wmt14enfr_dict.txt")


def wmt19_en_de(folder: Path, count: int = 60) -> None:
    def columns(seed: int, *langs: str) -> bytes:
        rows = zip(*(sentences(lang, seed, count) for lang in langs), strict=True)
        return text(["\t".join(row) for row in rows] + ["a line without tab"])

    packed(folder / "en-de.bicleaner07.txt.gz", columns(0, "en", "de"))
    packed(folder / "news-commentary-v14.de-en.tsv.gz", columns(1, "de", "en"))
    packed(folder / "wikititles-v1.de-en.tsv.gz", columns(2, "de", "en"))
    packed(folder / "europarl-v9.de-en.tsv.gz", columns(3, "de", "en"))
    crawl = {f"commoncrawl.de-en.{lang}": text(sentences(lang, 4, count)) for lang in ("en", "de")}
    tgz(folder / "training-parallel-commoncrawl.tgz", crawl)
    with zipfile.ZipFile(folder / "rapid2019.de-en.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for lang in ("en", "de"):
            archive.writestr(f"rapid2019.de-en.{lang}", text(sentences(lang, 5, count)))
    tests = {}
    for year, (kind, lang) in itertools.product((2017, 2018), (("src", "en"), ("ref", "de"))):
        content = sgml(sentences(lang, year, year - 2010), f"{kind}set")
        tests[f"dev/newstest{year}-ende-{kind}.{lang}.sgm"] = content
    tgz(folder / "dev.tgz", tests)
    dictionary(folder / "wmt19ende_dict.txt")


IWSLT_TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")


def iwslt14_de_en(folder: Path, count: int = 90) -> None:
    members = {}
    for lang in ("de", "en"):
        lines = sentences(lang, 0, count)
        lines[4] = "kurz" if lang == "de" else "this is very much longer"  # ratio beyond 1.5
        members[f"de-en/train.tags.de-en.{lang}"] = talks(lines, lang)
        for number, name in enumerate(IWSLT_TESTS):
            members[f"de-en/IWSLT14.{name}.de-en.{lang}.xml"] = sgml(
                [f"{name} Test.", *sentences(lang, 50 + number, number + 1)], "mteval"
            )
    tgz(folder / "de-en.tgz", members)


MAKE = {
    "wmt14.en-de": wmt14_en_de,
    "wmt14.en-fr": wmt14_en_fr,
    "wmt19.en-de": wmt19_en_de,
    "iwslt14.de-en": iwslt14_de_en,
}
