"""What is to be done for a downloaded data set: which photos it has, what is missing, how they are cut."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dirformer.data.sets import Cut, DataSet, Part, find_set
from dirformer.data.trees import Member, list_tree, read_lines
from dirformer.ground.errors import DataError
from dirformer.ground.places import Place


@dataclass(frozen=True, slots=True)
class Item:
    """A photo of a part, or a pair."""

    name: str
    gt: Member
    lq: Member | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done for one part."""

    part: Part
    items: list[Item]
    problems: list[str]


def plan(name: str, source: Path | Place, *, cut: Cut | None = None, multiscale: bool = False) -> list[Plan]:
    """Look at a downloaded data set and say what is to be done, and what is wrong with it.

    Args:
        name: of the data set; see `sets.DATA_SETS`.
        source: the archive, a folder of archives, or the unpacked folder; here or at an address.
        cut: sub-images of another size than the set's own, for its training parts.
        multiscale: cut reduced copies of the training photos as well.

    Raises:
        ConfigError: for an unknown name.
        DataError: if nothing of the set is found, or an archive is damaged.
    """
    chosen = find_set(name)
    tree = list_tree(source)
    plans = []
    for part in parts_of(name, cut, multiscale=multiscale):
        found = _plan(part, tree)
        if found.items or not part.optional:
            plans.append(found)
    if not any(p.items for p in plans):
        raise DataError(f"{source} holds nothing of {chosen.title}; expected {_expected(chosen)}")
    return plans


def parts_of(name: str, cut: Cut | None, *, multiscale: bool) -> list[Part]:
    """Return the parts of a data set, cut as asked. Raises ConfigError for an unknown name."""
    parts = []
    for part in find_set(name).parts:
        cuts = part.cut is not None and not part.lq
        own = (cut or part.cut) if part.cut else None
        parts.append(replace(part, cut=own, multiscale=multiscale and cuts))
    return parts


def _plan(part: Part, tree: list[Member]) -> Plan:
    label = part.name or "photos"
    if part.pairs is not None:
        items, problems = _listed_pairs(part.pairs, tree)
    else:
        items, problems = _matched(part, tree)
    if part.names is not None:
        items, more = _limited(items, part.names, tree)
        problems += more
    if part.shuffled is not None:
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
        items = [items[place] for place in order[slice(*part.shuffled)]]
    if part.numbers is not None:
        there = {int(re.sub(r"\D", "", item.name[-8:]) or 0) for item in items}
        missing = [n for n in part.numbers if n not in there]
        if items and missing:
            problems.append(f"missing: {_some([str(n) for n in missing])}")
    if part.count is not None and len(items) != part.count:
        problems.append(f"{len(items)} found, the official set has {part.count}")
    return Plan(part, items, [f"{label}: {problem}" for problem in problems])


def _matched(part: Part, tree: list[Member]) -> tuple[list[Item], list[str]]:
    """Find the photos of a part, and pair them by name."""
    for number, pattern in enumerate(part.gt):
        clean = _find(pattern, tree)
        if not clean:
            continue
        if not part.lq:
            return [Item(name, member) for name, member in clean.items()], []
        degraded = _find(part.lq[number], tree)
        items = [Item(name, clean[name], degraded[name]) for name in clean if name in degraded]
        problems = []
        for what, names in (
            ("degraded photos without GT", degraded.keys() - clean.keys()),
            ("GT without a degraded photo", set() if part.spare else clean.keys() - degraded.keys()),
        ):
            if names:
                problems.append(f"{len(names)} {what}: {_some(sorted(names))}")
        return items, problems
    return [], []


def _find(pattern: str, tree: list[Member]) -> dict[str, Member]:
    compiled = re.compile(pattern)
    found: dict[str, Member] = {}
    for member in tree:
        match = compiled.search(member.name)
        if match is None or "__MACOSX" in member.name:
            continue
        name = "_".join(match.groupdict().values()).replace("/", "_")
        if name in found:
            raise DataError(
                f"{member.name} and {found[name].name} are the same photo; keep one copy of the set"
            )
        found[name] = member
    return found


def _listed_pairs(pattern: str, tree: list[Member]) -> tuple[list[Item], list[str]]:
    lists = [member for member in tree if re.search(pattern, member.name)]
    if not lists:
        return [], [f"no list file like {pattern.rsplit(')', 1)[-1].replace(chr(92), '').rstrip('$')}"]
    # Lists name paths from the set's root, wherever that lies in the tree.
    ends: dict[str, Member] = {}
    for member in tree:
        parts = member.name.split("/")
        for start in range(len(parts)):
            ends.setdefault("/".join(parts[start:]), member)
    items, missing = [], []
    for line in read_lines(lists[0]):
        gt, lq = line.split()[:2]
        if gt in ends and lq in ends:
            scene, photo = gt.split("/")[-3], Path(gt).stem.removeprefix("gt_")
            items.append(Item(f"{scene}_{photo}", ends[gt], ends[lq]))
        else:
            missing.append(gt if gt not in ends else lq)
    return items, [f"{len(missing)} listed photos missing: {_some(missing)}"] if missing else []


def _limited(items: list[Item], pattern: str, tree: list[Member]) -> tuple[list[Item], list[str]]:
    lists = [member for member in tree if re.search(pattern, member.name)]
    if not lists:
        return [], [f"no list file {pattern.rsplit(')', 1)[-1].replace(chr(92), '').rstrip('$')}"]
    by_number = {int(item.name): item for item in items}
    # The lists count from 0, the pictures of the archive, numbered with leading zeros, from 1.
    offset = 0 if 0 in by_number else 1
    wanted = [int(re.sub(r"\D", "", Path(line).stem)) + offset for line in read_lines(lists[0])]
    missing = [str(number) for number in wanted if number not in by_number]
    found = [by_number[number] for number in wanted if number in by_number]
    return found, [f"{len(missing)} listed photos missing: {_some(missing)}"] if missing else []


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _expected(chosen: DataSet) -> str:
    part = chosen.parts[0]
    pattern = part.gt[0] if part.gt else (part.pairs or "")
    return "paths like " + re.sub(r"\(\?:\^\|/\)|\(\?P<\w+>|[\\$^)]|\(\?:", "", pattern)


def summary(plans: list[Plan]) -> dict[str, Any]:
    """Return what was found, for machines."""
    return {
        planned.part.name or "photos": {"found": len(planned.items), "problems": planned.problems}
        for planned in plans
    }
