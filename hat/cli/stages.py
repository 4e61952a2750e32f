"""The workspace of a task: the result of each stage is found by its identity or made, and never deleted."""

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hat.errors import HatError
from hat.files.atomic import link_or_copy
from hat.report.collect import duration
from hat.run import Identity, Run, cpu_seconds, digest_of, read_record

# identity, seconds (None: not ended), result, spent, outputs (SHA-256 by path), places
Entry = dict[str, Any]


class Stages:
    """Runs stages in order; what came out stands in the record of the task. A stage is up to date if its
    identity is the wanted one and its outputs are as it left them. The result of another identity is moved to
    `<path>.<short identity>`, and comes back from there if it is wanted again; pydoit, which decides alike,
    keeps one result only.
    """

    def __init__(self, run: Run, folder: Path, plan: Sequence[str] = ()) -> None:
        self._run, self._folder, self.plan = run, folder, list(plan)
        run.results["plan"] = self.plan  # of what is known, the rest belongs to earlier runs
        self.known: dict[str, Entry] = run.results.setdefault("stages", {})
        self._earlier: dict[str, dict[str, Entry]] = run.results.setdefault("earlier", {})
        times = {name: entry.get("spent", {}).get("wall_s") for name, entry in self.known.items()}
        self.expected_s = {_like(name): seconds for name, seconds in times.items() if seconds is not None}

    def run(
        self,
        name: str,
        work: Callable[[], Any],
        wanted: Identity | None,
        *,
        outputs: Sequence[Path] = (),
        places: Sequence[Path] = (),
        title: str = "",
    ) -> Any:
        """Run one stage unless it is up to date, and return its result; raises HatError if it fails.

        Args:
            work: does the work and returns plain values.
            wanted: identity of the result; None: `work` knows by itself whether there is anything to do.
            outputs: files whose content the stage vouches for.
            places: files and folders that make up the result and are moved together.
            title: what the user reads (default: the name).
        """
        title = f"stage {self.plan.index(name) + 1} of {len(self.plan)}: {title or name}"
        notes = self._find(name, wanted, places) if wanted else []
        held = self.known.get(name, {})
        if wanted and held.get("seconds") is not None and _key(held) == _key(wanted):
            took = f"({held['seconds']:.0f} s when it ran)"
            print(f"{title}: up to date {took}", *notes, sep="\n  ", flush=True)
            return held["result"]
        print(f"{title}{self._left(name) if wanted else ''}", *notes, sep="\n  ", flush=True)
        spent: Counter[str] = Counter(held.get("spent", {}))
        entry: Entry = {"seconds": None, "result": None, "outputs": {}, "spent": dict(spent)}
        entry |= {"places": self._names(places)} | ({"identity": asdict(wanted)} if wanted else {})
        self.known[name] = entry
        self._run.write()
        start, cpu_s, threads = time.perf_counter(), sum(cpu_seconds()), torch.get_num_threads()
        try:
            result = work()
        finally:  # what failed or was interrupted counts: the next try goes on from there
            torch.set_num_threads(threads)  # a stage may have set its own
            wall_s = time.perf_counter() - start
            spent.update({"wall_s": wall_s, "cpu_s": sum(cpu_seconds()) - cpu_s, "sittings": 1})
            own = read_record(places[0], note=lambda text: None).cost if places else None
            for part, value in own._asdict().items() if own else ():  # it knows those that were killed, too
                spent[part] = max(spent[part], value or 0)
            entry["spent"] = {part: round(value, 2) for part, value in spent.items()}
            self._run.write()
        if missing := [str(path) for path in outputs if not path.exists()]:
            raise HatError(f"stage {name} ended without making {', '.join(missing)}; see its output above")
        digests = dict(zip(self._names(outputs), map(digest_of, outputs), strict=True))
        entry |= {"seconds": round(wall_s, 2), "result": result, "outputs": digests}
        self.expected_s[_like(name)] = wall_s
        self._run.write()
        return result

    def _find(self, name: str, wanted: Identity, places: Sequence[Path]) -> list[str]:
        """Put the result of the wanted identity in place, if there is one, and what is there out of its way.
        Returns what a user should know of that.
        """
        held, notes, earlier = self.known.get(name), list[str](), self._earlier.setdefault(name, {})
        if held is None or "places" not in held:  # made by hand, by a command, or by another version
            there = [place for place in places if place.exists()]
            held = {"places": self._names(there), "seconds": None, "outputs": {}} if there else None
            made = read_record(there[0], note=lambda text: None).identity if there else None
            if held and made and made.digest == wanted.digest:
                held["identity"] = asdict(made if made.lengths else wanted)
        if held is not None and _key(held) != _key(wanted):
            was = Identity(**held["identity"]) if "identity" in held else None
            changes = _changes(was, wanted) if was else ["no record says what it was made from"]
            notes.append(f"changed: {', '.join(changes)}")
            if was and was.digest == wanted.digest and _longer(was, wanted) and _key(wanted) not in earlier:
                self._put_aside(name, held, _copy)  # it goes on; what was made stays, too
            else:
                notes += self._put_aside(name, held)
        if name not in self.known and (back := earlier.pop(_key(wanted), None)):
            self.known[name], ended = back, back["seconds"] is not None
            notes.append("an earlier result is found again" if ended else "an earlier try goes on")
            self._run.write()
        if held := self.known.get(name):
            self._bring(held)
            outputs = ((each, self._folder / each, digest) for each, digest in held["outputs"].items())
            if bad := [each for each, file, sha in outputs if not file.exists() or digest_of(file) != sha]:
                notes.append(f"missing or damaged: {', '.join(bad)}")
                notes += self._put_aside(name, held | {"damaged": True})
        return notes

    def _names(self, paths: Sequence[Path]) -> list[str]:
        return [os.path.relpath(path, self._folder) for path in paths]

    def _put_aside(self, name: str, held: Entry, move: Callable[[Path, Path], Any] = os.replace) -> list[str]:
        """Move a result out of the way and say so in a line; a kill in between leaves it to `_bring`."""
        key, said = "damaged" if "damaged" in held else _key(held), []
        self._bring(held)
        for place in (self._folder / each for each in held["places"]):
            if place.exists():
                names = [key, *(f"{key}.{number}" for number in range(2, 1000))]
                asides = (place.with_name(f"{place.name}.{each}") for each in names)
                move(place, aside := next(aside for aside in asides if not aside.exists()))
                said.append(f"{place} is kept as {aside.name}")
        if "identity" in held and key != "damaged":
            self._earlier[name][key] = dict(held)
        if move is os.replace:
            self.known.pop(name, None)
        self._run.write()
        return [said[0] + " with what belongs to it" * (len(said) > 1)] if said else []

    def _bring(self, held: Entry) -> None:
        """Move back what belongs to a result and is not in its place."""
        for place in (self._folder / name for name in held["places"]):
            aside = place.with_name(f"{place.name}.{_key(held)}")
            if "identity" in held and aside.exists() and not place.exists():
                os.replace(aside, place)

    def _left(self, name: str) -> str:
        stages = [_like(each) for each in self.plan[self.plan.index(name) :]]
        known = [self.expected_s[each] for each in stages if each in self.expected_s]
        about = "about" if len(known) == len(stages) else "at least"
        return f" ({about} {duration(sum(known))} left)" if sum(known) >= 1 else ""


def _like(stage: str) -> str:
    """Return what a stage has in common with those of other models."""
    return stage if " the " in stage else stage.split()[0]


def _copy(source: Path, target: Path) -> None:
    """Copy a result; checkpoints, which are never written in place, get a second name instead."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=lambda one, other: _copy(Path(one), Path(other)))
    else:
        (link_or_copy if source.suffix == ".pt" else shutil.copy2)(source, target)


def _key(of: Identity | Entry) -> str:
    """Return the short name of a result: its identity, and how far it goes."""
    if isinstance(of, dict):
        return _key(Identity(**of["identity"])) if "identity" in of else "unknown"
    text = json.dumps([of.digest, of.lengths], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _changes(was: Identity, wanted: Identity) -> list[str]:
    old, new = was.lengths, wanted.lengths
    both = ((key, old.get(key), new.get(key)) for key in {**old, **new})
    return was.differences(wanted) + [f"{key} {old} -> {new}" for key, old, new in both if old != new]


def _longer(was: Identity, wanted: Identity) -> bool:
    old, new = was.lengths, wanted.lengths  # what says how far a run goes
    return old.keys() == new.keys() and all(new[key] >= old[key] for key in old)
