"""The traits of a walk, one a file; see `mfd_flower.walk.trait`."""

from __future__ import annotations

from collections.abc import Mapping

from mfd_flower.checks import ConfigError, build
from mfd_flower.finding import find
from mfd_flower.walk.trait import Trait


def read_traits(tables: object) -> tuple[Trait, ...]:
    """Build traits from their tables of options, in the order of their layers.

    A walk always has a codec, ``fp32`` if none is named.
    """
    if not isinstance(tables, Mapping):
        raise ConfigError("options.traits", tables, "a table of traits, each a table of options")
    found: dict[str, Trait] = {}
    for name, options in {"codec": {}, **tables}.items():
        found[name] = build(find("trait", name, Trait).cls, options, f"options.traits.{name}.")
    for name, trait in found.items():
        if missing := [other for other in trait.needs if other not in found]:
            raise ConfigError(f"options.traits.{name}", tables[name], f"needs trait {missing[0]}")
        if others := [other for other in trait.excludes if other in found]:
            said = f"does not go with trait {others[0]}"
            raise ConfigError(f"options.traits.{name}", tables[name], said)
    return tuple(found[name] for name in sorted(found, key=lambda name: (found[name].layer, name)))
