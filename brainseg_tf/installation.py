"""What the package needs, what its extras need, and what of it is installed."""

from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement


@dataclass(frozen=True)
class Needed:
    """A package that is needed.

    Attributes:
        requirement: name and versions, ``numpy<2.5,>=2.0``.
        installed: its version here, None if it is missing.
        fits: whether that is one of the versions.
    """

    requirement: str
    installed: str | None
    fits: bool

    def __str__(self) -> str:
        remark = "   <- another version is needed" if self.installed and not self.fits else ""
        return f"{self.installed or 'missing':12} {self.requirement}{remark}"


def requirements(package: str = "brainseg-tf") -> dict[str, list[Needed]]:
    """What an installed package needs, by extra; under the name "" what it needs always."""
    found: dict[str, list[Needed]] = {"": []}
    extras = metadata.metadata(package).get_all("Provides-Extra") or []
    for line in metadata.requires(package) or []:
        requirement = Requirement(line)
        extra = next((one for one in extras if requirement.marker and requirement.marker.evaluate({"extra": one})), "")
        found.setdefault(extra, []).append(_state(requirement))
    return found


def _state(requirement: Requirement) -> Needed:
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Needed(wanted, None, False)
    return Needed(wanted, version, requirement.specifier.contains(version, prereleases=True))
