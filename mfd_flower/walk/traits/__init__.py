"""The traits of a walk, one a file; see `mfd_flower.walk.trait`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from mfd_flower.checks import ConfigError, build
from mfd_flower.walk.trait import Trait


def read_traits(tables: object) -> tuple[Trait, ...]:
    """Build traits from their tables of options, in the order of their layers.

    A walk always has a codec, ``fp32`` if none is named.

    Raises
    ------
    ConfigError
        If there is no such trait, an option is not acceptable, or one needs or excludes another.
    """
    if not isinstance(tables, Mapping):
        raise ConfigError("options.traits", tables, "a table of traits, each a table of options")
    found: dict[str, Trait] = {}
    for name, options in {"codec": {}, **tables}.items():
        found[name] = build(find_trait(name), options, f"options.traits.{name}.")
    for name, trait in found.items():
        if missing := [other for other in trait.needs if other not in found]:
            raise ConfigError(f"options.traits.{name}", tables[name], f"needs trait {missing[0]}")
        if others := [other for other in trait.excludes if other in found]:
            said = f"does not go with trait {others[0]}"
            raise ConfigError(f"options.traits.{name}", tables[name], said)
    return tuple(found[name] for name in sorted(found, key=lambda name: (found[name].layer, name)))


def find_trait(name: str) -> type[Trait]:
    """Return the trait of a name."""
    names = sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__))
    if name not in names:
        raise ConfigError(f"options.traits.{name}", name, f"accepted: {', '.join(names)}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    flat = name.replace("-", "")
    return next(
        kind
        for key, kind in vars(module).items()
        if key.lower() == flat and isinstance(kind, type) and issubclass(kind, Trait)
    )
