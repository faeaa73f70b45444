"""The datasets of a site: one JSON file each, checked when it is stored, served as it is."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import from_json, to_json

from swashplate.errors import InvalidRequestError, NotFoundError
from swashplate.files import write_whole
from swashplate.messages import Message
from swashplate.topics import level

SCHEMA = "fl-demo-dataset-v1"
MOST_ID_BYTES = 200
"""A file name has at most 255 bytes."""
COUNTED_BYTES = 16 << 20

Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True, allow_inf_nan=False)]


@dataclass(slots=True)
class Row:
    """One sample: its features and its label."""

    x: Annotated[list[Number], Field(min_length=1)]
    y: Number


class DatasetUpload(Message):
    """A dataset to be stored. Further fields are ignored: ids and size are ours to say."""

    data: list[Row] = Field(min_length=1)
    schema_name: str = Field(default=SCHEMA, alias="schema", max_length=128)

    @model_validator(mode="after")
    def _equal_features(self) -> DatasetUpload:
        width = len(self.data[0].x)
        for at, row in enumerate(self.data):
            if len(row.x) != width:
                raise ValueError(f"data.{at}.x has {len(row.x)} features, the first row has {width}")
        return self


@dataclass(frozen=True)
class Dataset:
    """A stored dataset: where it is and what its content hashes to. ``rows`` is None for a large file of somebody else's
    making: to count them would take seconds and many times its size in memory.
    """

    path: Path
    etag: str
    rows: int | None


class Datasets:
    """Blocking; the files of ``folder``, each named ``{id}.json``. Other processes may put files there too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[tuple[int, int, int], Dataset]] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in folder.glob(".incoming-*"):
            leftover.unlink(missing_ok=True)

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def has(self, name: str) -> bool:
        return self._path(name).is_file()

    def get(self, name: str) -> Dataset:
        """Raises ``NotFoundError`` with code ``dataset_not_found``."""
        path = self._path(name)
        try:
            found = path.stat()
            version = found.st_mtime_ns, found.st_size, found.st_ino
            known = self._known.get(name)
            if known is not None and known[0] == version:
                return known[1]
            dataset = _described(path)
        except FileNotFoundError as error:
            raise NotFoundError("Dataset not found", code="dataset_not_found", hint=f"POST /datasets/{name}") from error
        self._known[name] = version, dataset
        return dataset

    def put(self, name: str, data: Sequence[Any], schema: str = SCHEMA) -> Dataset:
        """Durable and whole when this returns."""
        target = self._path(name)
        content = to_json({"schema": schema, "proplet_id": name, "client_id": name, "data": data, "size": len(data)})
        write_whole(target, content)
        found = replace(self.get(name), rows=len(data))
        self._known[name] = self._known[name][0], found
        return found

    def _path(self, name: str) -> Path:
        """Raises ``InvalidRequestError`` for a name that could leave the folder or not be a topic level."""
        if len(level(name, "dataset id").encode()) > MOST_ID_BYTES:
            raise InvalidRequestError(f"dataset id must be at most {MOST_ID_BYTES} bytes", code="invalid_id")
        return self._folder / f"{name}.json"


def _described(path: Path) -> Dataset:
    """Raises ``FileNotFoundError``."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        rows = None
        if file.tell() <= COUNTED_BYTES:
            file.seek(0)
            rows = _count(file.read())
    return Dataset(path, f'"{digest.hexdigest()}"', rows)


def _count(content: bytes) -> int:
    """Rows of a dataset; 0 for a file of somebody else's making that has none."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return len(from_json(content)["data"])
    return 0
