"""The requirements of the package and of its extras, and their installed versions."""

from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement


@dataclass(frozen=True)
class Dependency:
    """A required package.

    Attributes:
        requirement: name and allowed versions, for instance ``numpy<2.5,>=2.0``.
        installed: the installed version; None if the package is missing.
        satisfied: whether an allowed version is installed.
    """

    requirement: str
    installed: str | None
    satisfied: bool

    def __str__(self) -> str:
        remark = "   <- another version is required" if self.installed and not self.satisfied else ""
        return f"{self.installed or 'missing':12} {self.requirement}{remark}"


def requirements(package: str = "brainseg-tf") -> dict[str, list[Dependency]]:
    """The dependencies of an installed package by extra; those without an extra are under the empty name."""
    found: dict[str, list[Dependency]] = {"": []}
    extras = metadata.metadata(package).get_all("Provides-Extra") or []
    for line in metadata.requires(package) or []:
        requirement = Requirement(line)
        extra = next((one for one in extras if requirement.marker and requirement.marker.evaluate({"extra": one})), "")
        found.setdefault(extra, []).extend([_dependency(requirement), *_of_extras(requirement)])
    return found


def _of_extras(requirement: Requirement) -> list[Dependency]:
    """What the extras of a requirement need, for instance the CUDA libraries of ``tensorflow[and-cuda]``."""
    if not requirement.extras:
        return []
    try:
        lines = metadata.requires(requirement.name) or []
    except metadata.PackageNotFoundError:
        return []

    def needed(one: Requirement, extra: str) -> bool:
        return one.marker is not None and one.marker.evaluate({"extra": extra})

    parts = [one for one in map(Requirement, lines) if not needed(one, "")]
    return [_dependency(one) for one in parts if any(needed(one, extra) for extra in requirement.extras)]


def _dependency(requirement: Requirement) -> Dependency:
    text = f"{requirement.name}{requirement.specifier}"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Dependency(text, None, False)
    return Dependency(text, version, requirement.specifier.contains(version, prereleases=True))
