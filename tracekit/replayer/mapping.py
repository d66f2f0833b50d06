"""Mapping rules: the target of each recorded URI in a replay, decided before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracekit.backends.objects.uri import escape, unescape
from tracekit.backends.registry import known_schemes, schemes_in_words
from tracekit.errors import UsageError
from tracekit.replayer.clients import PLACEHOLDER, client_and_uri
from tracekit.uri import FILE_SCHEMES, clean, has_scheme, scheme_of, to_path, with_scheme

__all__ = ["MappingRules", "parse_rules"]


@dataclass(frozen=True, slots=True)
class MappingRules:
    """Rewrites URIs. The longest matching prefix wins; regular expressions follow in their order.

    A prefix matches whole path parts: `file:///data` maps `file:///data/a`, not `file:///database`.
    """

    prefixes: tuple[tuple[str, str], ...] = ()
    patterns: tuple[tuple[re.Pattern[str], str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.prefixes or self.patterns)

    @property
    def per_client(self) -> bool:
        """Whether each client of a replay has names of its own."""
        return any(PLACEHOLDER in target for _, target in (*self.prefixes, *self.patterns))

    def apply(self, source: str) -> str | None:
        """The target of `source`, a recorded URI or that of one client, or None if no rule matches."""
        client, uri = client_and_uri(source) if self.per_client else (0, source)
        found = self._target(uri)
        return found if found is None else found.replace(PLACEHOLDER, str(client))

    def _target(self, uri: str) -> str | None:
        best = None
        for source, target in self.prefixes:
            if _covers(source, uri) and (best is None or len(source) > len(best[0])):
                best = (source, target)
        if best is not None:
            rest = _carried(uri, *best)
            return (
                best[1]
                + ("/" if rest and not rest.startswith("/") and not best[1].endswith("/") else "")
                + rest
            )
        for pattern, replacement in self.patterns:
            if pattern.search(uri):
                try:
                    return pattern.sub(replacement, uri, count=1)
                except (re.error, IndexError) as error:
                    raise UsageError(
                        f"map={'~' + pattern.pattern!r}: replacement {clean(replacement)!r}: {error}",
                        "refer to groups of the expression",
                    ) from error
        return None

    def check_inside(self, uri: str, target: str) -> None:
        """Raise UsageError if writing `target`, the local target of the source `uri`, would leave the rule's target.

        `..` and symbolic links are resolved first.
        """
        client, uri = client_and_uri(uri) if self.per_client else (0, uri)
        if scheme_of(target) not in FILE_SCHEMES:
            return
        root = os.path.realpath(_folder(self._root_of(uri).replace(PLACEHOLDER, str(client))))
        real = os.path.realpath(to_path(target))
        if real != root and not real.startswith(root.rstrip("/") + "/"):
            raise UsageError(
                f"{target} leads to {real}, outside the mapped target {root}",
                "map it to where it may be written",
            )

    def _root_of(self, uri: str) -> str:
        """The target below which the rule for `uri` maps: TO, or the directory that REPLACEMENT begins with."""
        covering = [(source, target) for source, target in self.prefixes if _covers(source, uri)]
        if covering:
            return max(covering, key=lambda rule: len(rule[0]))[1]
        return _begin(next(text for pattern, text in self.patterns if pattern.search(uri)))

    def local_roots(self) -> list[str]:
        """The local paths below which the rules map: TO, or the directory that REPLACEMENT begins with."""
        targets = [target for _, target in self.prefixes] + [_begin(text) for _, text in self.patterns]
        return [
            str(_folder(_above_clients(target)))
            for target in targets
            if not has_scheme(target) or scheme_of(target) in FILE_SCHEMES
        ]

    def apply_all(self, uris: Sequence[str], *, shared: bool = False) -> list[str]:
        """Return the target of each of `uris`, or the URIs themselves if there are no rules.

        Raises UsageError if a URI matches no rule, two URIs map to the same target (unless targets may be `shared`, as nothing
        changes them), or the scheme of a target is unknown.
        """
        if not self:
            targets = list(uris)
        else:
            mapped = [self.apply(uri) for uri in uris]
            unmatched = [uri for uri, target in zip(uris, mapped, strict=True) if target is None]
            if unmatched:
                raise UsageError(
                    f"no map= rule matches {client_and_uri(unmatched[0])[1]}"
                    + (f" and {len(unmatched) - 1} more" if len(unmatched) > 1 else ""),
                    "add a rule FROM=TO whose FROM is a prefix of it",
                )
            targets = [target for target in mapped if target is not None]
        if not shared:
            _refuse_collisions(uris, targets)
        for target in targets:
            if scheme_of(target) not in known_schemes():
                raise UsageError(
                    f"{clean(target)} cannot be replayed", f"map it to one of {schemes_in_words()}"
                )
        return targets


def parse_rules(rules: Iterable[str]) -> MappingRules:
    """Parse rules: `FROM=TO` by prefix, `~REGEX=REPLACEMENT` by regular expression.

    A plain path on either side is a `file://` URI. FROM may contain `=` (`/data/day=1=/other`):
    it ends at the first `=` that a path or a scheme follows. Raises UsageError for anything else.
    """
    prefixes, patterns = [], []
    for rule in rules:
        cut = re.search("=(?=/|[a-z][a-z0-9+.-]*://)", rule) if not rule.startswith("~") else None
        source, equals, target = (
            rule.partition("=") if cut is None else (rule[: cut.start()], "=", rule[cut.end() :])
        )
        if not equals or not source or not target:
            raise UsageError(
                f"map={clean(rule)!r} is not a rule", "write FROM=TO, such as file:///data=direct:///data"
            )
        _refuse_secrets(source.removeprefix("~"))
        _refuse_secrets(target)
        if source.startswith("~"):
            try:
                patterns.append((re.compile(source[1:]), target))
            except re.error as error:
                raise UsageError(f"map={source!r}: {error}", "write ~REGEX=REPLACEMENT") from error
        else:
            prefixes.append((_root(source), _root(target)))
    doubled = {source for source, _ in prefixes if sum(s == source for s, _ in prefixes) > 1}
    if doubled:
        raise UsageError(f"map= has two rules for {min(doubled)}", "keep one of them")
    return MappingRules(tuple(prefixes), tuple(patterns))


def _begin(replacement: str) -> str:
    """Return the part of a replacement that is the same for every URI: all of it, or up to a directory."""
    fixed = replacement.partition("\\")[0]
    return fixed if fixed == replacement else fixed.rpartition("/")[0] or fixed


def _above_clients(target: str) -> str:
    """Return `target`, or the directory that holds those of all clients."""
    above, found, _ = target.partition(PLACEHOLDER)
    return above.rpartition("/")[0] if found else target


def _carried(uri: str, source: str, target: str) -> str:
    """Return the part of `uri` after `source` in the form of `target`: file names raw, object keys escaped.

    Raises UsageError if it would name a file outside `target`.
    """
    rest = uri[len(source) :]
    from_file, to_file = (scheme_of(root) in FILE_SCHEMES for root in (source, target))
    if from_file and not to_file:
        return escape(rest)
    if to_file and not from_file:
        rest = unescape(rest)
        if ".." in rest.split("/") or "\0" in rest:
            raise UsageError(f"{uri} cannot be a file under {target}", "map it to objects")
    return rest


def _refuse_secrets(text: str) -> None:
    """Raise UsageError for a user or password in a rule: it would be kept in the trace's metadata."""
    bare = clean(text)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@", text) and bare != text:
        raise UsageError(
            f"map=: {bare} contains a user or a password",
            "pass credentials in the environment",
        )


def _root(text: str) -> str:
    scheme, separator, path = with_scheme(text).partition("://")
    return scheme + separator + path.rstrip("/")


def _folder(target: str) -> Path:
    """The local directory that a target names; a scheme alone names the root."""
    return to_path(f"{target}/" if target.endswith("://") else target)


def _covers(source: str, uri: str) -> bool:
    return uri.startswith(source) and (
        len(uri) == len(source) or source.endswith("/") or uri[len(source)] == "/"
    )


def _refuse_collisions(uris: Sequence[str], targets: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for uri, target in zip(uris, targets, strict=True):
        other = seen.setdefault(target, uri)
        if other != uri:
            raise UsageError(
                f"{client_and_uri(other)[1]} and {client_and_uri(uri)[1]} both map to {clean(target)}",
                "use map= rules that give them different targets: only a replay without allow_writes= may join objects",
            )
