"""What of a policy is other than it was, in words for a log. Pure."""

from __future__ import annotations

from proplet.policy.document import Grants, PolicyFile
from proplet.policy.policy import amounts
from swashplate import limits


def changes(before: PolicyFile, after: PolicyFile) -> list[str]:
    """One for each field; the entries of ``grant`` go by their place in the file, counted from one."""
    old, new = _fields(before), _fields(after)
    said = [
        f"{name} is {value}, was {old.get(name, 'not there')}" for name, value in new.items() if value != old.get(name)
    ]
    return [*said, *(f"{name} is gone, was {value}" for name, value in old.items() if name not in new)]


def _fields(file: PolicyFile) -> dict[str, str]:
    return {
        **{f"directories.{name}": f"{each.path}{' to write' * each.write}" for name, each in file.directories.items()},
        **{f"signers.{name}": " ".join(each.public_key.split()) for name, each in file.signers.items()},
        **{
            f"{table}.{limits.NAMES[name]}": limits.shown(name, value)
            for table, said in (("limits", file.limits), ("ceilings", file.ceilings))
            for name, value in amounts(said).items()
        },
        **_granted("default", file.default),
        **{name: text for n, each in enumerate(file.grant, 1) for name, text in _granted(f"grant {n}", each).items()},
    }


def _granted(where: str, each: Grants) -> dict[str, str]:
    said = {name: value for name, value in each.model_dump(exclude_none=True).items() if value not in ("", {}, [])}
    directories, env = said.pop("directories", {}), said.pop("env", [])
    return {
        **{f"{where}.{name}": str(value).lower() if isinstance(value, bool) else value for name, value in said.items()},
        **{f"{where}.directories.{name}": access for name, access in directories.items()},
        **({f"{where}.env": ", ".join(env)} if env else {}),
    }
