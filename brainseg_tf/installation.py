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
        found.setdefault(extra, []).append(_dependency(requirement))
    return found


def _dependency(requirement: Requirement) -> Dependency:
    text = f"{requirement.name}{requirement.specifier}"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Dependency(text, None, False)
    return Dependency(text, version, requirement.specifier.contains(version, prereleases=True))
