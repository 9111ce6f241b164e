"""Print the layers of imports inside the package: python tests/layers.py, a part of `make check`.

A part is a file or folder directly below `src/fretsaw/`. Its layer is one more than the highest layer that it imports when it is imported itself; layer 0
imports no other part. The script ends with an error if modules import each other in a circle, or if a part imports one that stands after it in `DIRECTION`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

from test_architecture import DIRECTION, FILES, SOURCE, TREES, imports_of, module_name, modules_imported, part_of


def arrows() -> dict[str, set[str]]:
    """Return {part: the other parts that it imports when it is imported}."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in FILES:
        if path.parent == SOURCE and path.stem in ("__init__", "__main__"):
            continue
        own = part_of(path)
        found[own] |= {name for name, at_import in imports_of(TREES[path]) if at_import and name in DIRECTION and name != own}
    return dict(found)


def layers(imported: dict[str, set[str]]) -> dict[str, int]:
    """Return {part: its layer}, the parts in an order in which they can be imported."""
    found: dict[str, int] = {}
    for part in TopologicalSorter(imported).static_order():
        found[part] = 1 + max((found[other] for other in imported.get(part, ())), default=-1)
    return found


def main() -> str | None:
    """Print one line for each part; return what is wrong, if anything is."""
    modules = {module_name(path): modules_imported(path) - {module_name(path)} for path in FILES}
    try:
        tuple(TopologicalSorter(modules).static_order())
        found = layers(arrows())
    except CycleError as error:
        return f"modules import each other in a circle: {' -> '.join(error.args[1])}"
    imported = arrows()
    if strange := sorted(set(found) - set(DIRECTION)):
        return f"no place in DIRECTION of tests/test_architecture.py for {', '.join(strange)}"
    print("Layers of imports, lowest first; after each part, what it imports when it is imported itself:")
    for part in sorted(found, key=lambda part: (found[part], DIRECTION.index(part))):
        print(f"{found[part]:>3}  {part:<13} {', '.join(sorted(imported.get(part, ()), key=DIRECTION.index))}")
    upward = [f"{part} imports {other}" for part, others in imported.items() for other in others if DIRECTION.index(other) > DIRECTION.index(part)]
    print(f"{len(modules)} modules without a circle, {sum(map(len, imported.values()))} arrows between {len(imported)} parts, {len(upward)} of them back up")
    return "; ".join(upward) or None


if __name__ == "__main__":
    sys.exit(main())
