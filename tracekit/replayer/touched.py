"""What a replay changes at its target: checked before the start, and compared with the recording after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from tracekit.backends.changing import CAPABILITIES, ONE_UPLOAD_AT_A_TIME
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.replayer.backends import Backends
from tracekit.replayer.clients import client_and_uri
from tracekit.replayer.engines.gather import series_of
from tracekit.replayer.kinds import KINDS, READS, TWO_OBJECTS
from tracekit.replayer.mapping import MappingRules, parse_rules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import NONE, Plan
from tracekit.replayer.stored import Stored
from tracekit.replayer.uploads import Uploads
from tracekit.uri import FILE_SCHEMES, scheme_of, to_path

__all__ = ["Touched", "found_sizes", "touched_by"]

_STATS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Touched:
    """The objects that a plan changes. Its dicts go by recorded URI.

    `targets` are the objects at the target, and `at_start` the sizes of those that are there already.
    """

    stored: Stored = field(default_factory=Stored)
    targets: dict[str, str] = field(default_factory=dict)
    at_start: dict[str, int] = field(default_factory=dict)

    def wrong(self, backends: Backends) -> list[str]:
        """Compare the target with what the recording left behind; return a line for each object that differs."""
        expected = self.stored.sizes(self.at_start)
        uris = list(expected)
        found = found_sizes(backends, [self.targets[uri] for uri in uris])
        return [
            f"{self.targets[uri]} {_said(size)}, and {_said(expected[uri])} after the recording"
            for uri, size in zip(uris, found, strict=True)
            if size != expected[uri]
        ]

    def outcome(self) -> dict[str, tuple[str, ...]]:
        """The names of the objects that are created, replaced, renamed (FROM -> TO) and deleted."""
        kept = {uri for uri, size in self.stored.sizes(self.at_start).items() if size is not None}
        renamed = {f"{self.targets[uri]} -> {self.targets[to]}" for uri, to in self._renames()}
        return {
            "creates": tuple(sorted(self.targets[uri] for uri in kept - self.at_start.keys())),
            "replaces": tuple(sorted(self.targets[uri] for uri in kept & self.at_start.keys())),
            "renames": tuple(sorted(renamed)),
            "deletes": tuple(sorted({self.targets[uri] for uri in self.stored.deleted})),
        }

    def _renames(self) -> list[tuple[str, str]]:
        return [pair for pair in self.stored.renamed if set(pair) <= self.targets.keys()]


def touched_by(plan: Plan, backends: Backends, options: ReplayOptions) -> tuple[Touched, list[int]]:
    """Return what the plan changes, and the numbers of the objects that it reads and does not make itself.

    Raises UsageError if a change is impossible at its target, would leave the mapped targets, or would
    change an object that is there without `overwrite`.
    """
    if not plan.changes:
        return Touched(), plan.files_of(*READS, existing=True)
    stored = Stored()
    alone = stored.add(plan, slice(0, plan.ops))
    reads = alone & (plan.column("kind") < len(READS)) & ~plan.absent()
    code = {uri: number for number, uri in enumerate(plan.sources)}
    needed = {*np.unique(plan.column("file")[reads]).tolist(), *(code[uri] for uri in stored.needed)}
    _check_kinds(plan, backends)
    rules = parse_rules(options.map)
    targets = _targets(plan, stored, rules, options)
    uris = sorted(targets)
    found = found_sizes(backends, [targets[uri] for uri in uris])
    at_start = {uri: size for uri, size in zip(uris, found, strict=True) if size is not None}
    if at_start and not options.overwrite_objects:
        more = f" and {len(at_start) - 1} more" if len(at_start) > 1 else ""
        raise UsageError(
            f"{targets[next(iter(at_start))]}{more} would be overwritten",
            "choose another target, or give overwrite=True",
        )
    return Touched(stored, targets, at_start), sorted(needed)


def found_sizes(backends: Backends, uris: Sequence[str]) -> list[int | None]:
    """The size of each object, None for one that is not there; 0 for a directory."""

    def size(uri: str) -> int | None:
        try:
            return backends.of(uri).stat(uri).size
        except BackendError as error:
            if error.error_class == ErrorClass.NOT_FOUND:
                return None
            if scheme_of(uri) in FILE_SCHEMES and to_path(uri).is_dir():
                return 0
            raise

    if all(scheme_of(uri) in FILE_SCHEMES for uri in uris):
        return [size(uri) for uri in uris]
    with ThreadPoolExecutor(_STATS_AT_ONCE) as pool:
        return list(pool.map(size, uris))


def _targets(plan: Plan, stored: Stored, rules: MappingRules, options: ReplayOptions) -> dict[str, str]:
    """The target of every object that is changed. Raises UsageError if one is where it must not be."""
    known = dict(zip(plan.sources, plan.uris, strict=True))
    renamed = {uri for pair in stored.renamed for uri in pair}
    targets = {
        uri: known.get(uri) or rules.apply(uri) or client_and_uri(uri)[1]
        for uri in {*stored.touched, *renamed, *stored.deleted}
    }
    for uri, target in targets.items():
        if not options.map or _same_place(target, client_and_uri(uri)[1]):
            raise UsageError(
                f"{target} would be written where it was recorded", "give another target as map=FROM=TO"
            )
        rules.check_inside(uri, target)
    return {uri: target for uri, target in targets.items() if uri in stored.touched or uri in renamed}


def _same_place(uri: str, other: str) -> bool:
    """Whether both URIs name one object; links of local files are resolved."""
    if uri == other or not {scheme_of(uri), scheme_of(other)} <= set(FILE_SCHEMES):
        return uri == other
    return os.path.realpath(to_path(uri)) == os.path.realpath(to_path(other))


def _check_kinds(plan: Plan, backends: Backends) -> None:
    """Raise UsageError for a kind of change that its target cannot do."""
    kind, file = plan.column("kind"), plan.column("file")
    schemes = np.array([scheme_of(uri) for uri in plan.uris])
    of_op = schemes[file]
    for code in np.unique(kind[kind >= len(READS)]).tolist():
        name, chosen = KINDS[code], kind == code
        for scheme in np.unique(of_op[chosen]).tolist():
            mine = chosen & (of_op == scheme)
            if name not in CAPABILITIES.get(scheme, ()):
                raise _cannot(scheme, name, int(mine.sum()))
            if scheme not in FILE_SCHEMES:
                _check_objects(plan, backends, scheme, name, mine)
        if name == "copy" and (parts := int((chosen & (plan.column("part") > 0)).sum())):
            raise UsageError(
                f"{parts} copy ops copy a part of an object, which no target can", "give skip='copy'"
            )
        if name in TWO_OBJECTS:
            _check_pairs(plan, schemes, name, chosen)
        if name == "truncate" and (missing := int((chosen & (plan.column("length") == NONE)).sum())):
            raise UsageError(f"{missing} truncate ops do not say to which size", "give skip='truncate'")


def _check_objects(plan: Plan, backends: Backends, scheme: str, name: str, mine: np.ndarray) -> None:
    """Raise UsageError for a change that an object store cannot do in the way of the recording."""
    first = plan.uris[plan.column("file")[np.flatnonzero(mine)[0]]]
    if name != "put":
        backends.of(first).changer.prepare(first)
    if name == "truncate" and (bad := int((mine & (plan.column("length") > 0)).sum())):
        raise _cannot(scheme, "truncate", bad, " to another size than 0")
    if name == "part" and scheme in ONE_UPLOAD_AT_A_TIME:
        uploads = Uploads()
        uploads.add(plan, slice(0, plan.ops))
        if mixed := [uri for file in sorted(uploads.at_once) if scheme_of(uri := plan.uris[file]) == scheme]:
            raise UsageError(
                f"{scheme}:// cannot hold several uploads of one object at once, such as {mixed[0]}",
                "map to another target, or give skip=['part', 'complete']",
            )
    if name == "write":
        series = series_of(plan, lambda uri: scheme_of(uri) == scheme)
        broken = [op for op, each in series.items() if not each.whole]
        if broken:
            uri = plan.uris[plan.column("file")[broken[0]]]
            raise _cannot(
                scheme,
                "write",
                len(broken),
                f" to parts of objects, such as {uri}: an object is written as a whole",
            )


def _check_pairs(plan: Plan, schemes: np.ndarray, name: str, chosen: np.ndarray) -> None:
    to_file = plan.column("to_file")[chosen]
    if (to_file < 0).any():
        raise UsageError(
            f"{int((to_file < 0).sum())} {name} ops do not say to which name", f"give skip={name!r}"
        )
    apart = schemes[plan.column("file")[chosen]] != schemes[to_file]
    if apart.any():
        raise UsageError(
            f"{int(apart.sum())} {name} ops lead from one kind of target to another",
            f"map both names to one scheme, or give skip={name!r}",
        )


def _cannot(scheme: str, kind: str, count: int, how: str = "") -> UsageError:
    return UsageError(
        f"{scheme}:// cannot {kind}{how} ({count} ops)", f"give skip={kind!r}, or map to another target"
    )


def _said(size: int | None) -> str:
    return "is not there" if size is None else f"has {size} bytes"
