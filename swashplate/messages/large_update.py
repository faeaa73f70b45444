"""An update of many megabytes, looked through without being built: as Python objects it can take forty times its size, and
a process all the time it has. Whoever learns from its model checks the model.
"""

from __future__ import annotations

import msgspec
from pydantic_core import from_json, to_json

from swashplate.errors import InvalidRequestError
from swashplate.messages.learning import Update

MAX_METRICS_BYTES = 192 * 1024


class _Printed(msgspec.Struct):
    round_id: str
    proplet_id: str
    num_samples: int
    update: msgspec.Raw
    base_model_uri: str = ""
    metrics: msgspec.Raw = msgspec.Raw(b"{}")


def head(text: bytes) -> Update:
    """All of an update but its model, which is left empty. Raises ``InvalidRequestError``."""
    printed = _read(text)
    if len(printed.metrics) > MAX_METRICS_BYTES:
        raise InvalidRequestError(f"metrics: has {len(printed.metrics)} bytes, the limit is {MAX_METRICS_BYTES}")
    fields = {name: getattr(printed, name) for name in ("round_id", "proplet_id", "num_samples", "base_model_uri")}
    return Update.decode(to_json({**fields, "metrics": from_json(bytes(printed.metrics)), "update": {}}))


def based_on(model_uri: str, text: bytes) -> bytes:
    """``text``, of which ``head`` has been read, as an update of the model ``model_uri``."""
    known = head(text).model_copy(update={"base_model_uri": model_uri})
    described = to_json(known.model_dump(exclude={"update"}))
    return b"".join([described.removesuffix(b"}"), b',"update":', memoryview(_read(text).update), b"}"])


def _read(text: bytes) -> _Printed:
    try:
        printed = msgspec.json.decode(text, type=_Printed)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"it is not JSON: {error}", code="malformed_json") from error
    if bytes(memoryview(printed.update)[:1]) != b"{":
        raise InvalidRequestError("update: must be an object")
    return printed
