"""The traits of a walk, one a file; see `mfd_flower.walk.trait`."""

from __future__ import annotations

from collections.abc import Mapping

from mfd_flower.checks import ConfigError, build
from mfd_flower.finding import find
from mfd_flower.walk.trait import Layer, Trait


def read_traits(tables: object, own: Mapping[str, Trait] = {}) -> tuple[Trait, ...]:
    """Build traits from their tables of options, in the order of their layers.

    `own` are those that a strategy always has. A walk has a codec, ``fp32`` if none is named,
    unless one of them stands in its place.
    """
    if not isinstance(tables, Mapping):
        raise ConfigError("options.traits", tables, "a table of traits, each a table of options")
    found: dict[str, Trait] = dict(own)
    coded = any(trait.layer is Layer.CODEC for trait in own.values())
    for name, options in {**({} if coded else {"codec": {}}), **tables}.items():
        found[name] = build(find("trait", name, Trait).cls, options, f"options.traits.{name}.")
    for name, trait in found.items():
        if missing := [other for other in trait.needs if other not in found]:
            said = f"needs trait {missing[0]}"
            raise ConfigError(f"options.traits.{name}", tables.get(name, ""), said)
        if others := [other for other in trait.excludes if other in found]:
            if name in own:
                said = "is none of the traits that go with this strategy"
                raise ConfigError(f"options.traits.{others[0]}", tables[others[0]], said)
            said = f"does not go with trait {others[0]}"
            raise ConfigError(f"options.traits.{name}", tables[name], said)
    return tuple(found[name] for name in sorted(found, key=lambda name: (found[name].layer, name)))
