"""The commands of README.md and docs/: every line of every bash block, with the section it stands in."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from hat.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Command(NamedTuple):
    """One command; `words` leaves out variables set in front of it."""

    document: str  # path below the checkout
    section: str
    words: tuple[str, ...]

    @property
    def script(self) -> str:
        """Return the file in the checkout that runs, or an empty string."""
        return next((word for word in self.words if word.endswith((".py", ".sh"))), "")

    @property
    def name(self) -> str:
        """Return the command of `hat` that runs, also for the five scripts, or an empty string."""
        if self.words[:3] == ("python", "-m", "hat"):
            return self.words[3]
        names = {"download_model": "download"} | {name.replace("-", "_"): name for name in COMMANDS}
        return names.get(Path(self.script).stem, "") if self.script.endswith(".py") else ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return what stands behind the command or script."""
        start = 4 if self.words[1] == "-m" else self.words.index(self.script) + 1 if self.script else 1
        return self.words[start:]


def sections(path: Path) -> list[tuple[str, str]]:
    """Return heading and text of each section; a heading inside a block is none."""
    parts = re.split(r"(?m)^(```.*)$", path.read_text("utf-8"))
    found: list[tuple[str, str]] = []
    inside = False
    for part in parts:
        if part.startswith("```"):
            inside = not inside
        pieces = [part] if inside else re.split(r"(?m)^(#+ .*)$", part)
        for piece in pieces:
            if not inside and re.match(r"#+ ", piece):
                found.append((piece.lstrip("# "), ""))
            elif found:
                found[-1] = (found[-1][0], found[-1][1] + piece)
    return found


def commands(path: Path) -> list[Command]:
    """Return the commands of a document in their order."""
    found = []
    for heading, text in sections(path):
        for block in re.findall(r"(?ms)^```(?:bash|sh|shell|console)\n(.*?)^```", text):
            for line in block.replace("\\\n", " ").split("\n"):
                words = shlex.split(line, comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    del words[0]
                if words:
                    found.append(Command(str(path.relative_to(ROOT)), heading, tuple(words)))
    return found


ALL = [command for path in DOCUMENTS for command in commands(path)]
