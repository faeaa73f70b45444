"""May this update count? Checks of one update against its round, in the order in which a sender should learn of them."""

from __future__ import annotations

import json
from itertools import accumulate
from operator import mul

from coordinator import models
from coordinator.records import Participants, ReceivedUpdate, Round, UpdateKey
from coordinator.tokens import Tokens
from swashplate.blobs import sha256_digest
from swashplate.errors import ConflictError, ForbiddenError, InvalidRequestError
from swashplate.http import MIB, parse, values_in
from swashplate.messages import TOKEN_HEADER, Update, large_update
from swashplate.model_ref import ModelRef

LARGE = MIB
"""Bytes. The model of a larger update is not built before it is known to be about as large as the round's."""
MOST_OF_NUMBER = 64
"""Bytes of one number in a text that is printed for people."""


def read(body: bytes) -> Update:
    """What a participant sent; of a large update everything but the model. Raises ``InvalidRequestError``."""
    return parse(body, Update) if len(body) <= LARGE else large_update.head(body)


def check_participant(round_: Round, participants: Participants, update: Update) -> None:
    """Raises ``ForbiddenError`` with code ``not_a_participant``."""
    if update.proplet_id not in participants:
        raise ForbiddenError(f"{update.proplet_id} is not a participant of round {round_.id}", code="not_a_participant")


def check_token(round_: Round, tokens: Tokens, update: Update, token: str) -> None:
    """Raises ``ForbiddenError`` with code ``invalid_token``."""
    if not tokens.matches(token, round_.id, update.proplet_id):
        raise ForbiddenError(
            f"the update of {update.proplet_id} does not bring the token of its task",
            code="invalid_token",
            hint=f"the header {TOKEN_HEADER} must carry the token that came with the task's start",
        )


def check_base(round_: Round, update: Update) -> None:
    """Raises ``ConflictError`` with code ``stale_base`` when the update starts from another model than the round."""
    if not update.base_model_uri:
        return
    try:
        same = ModelRef.parse(update.base_model_uri) == round_.base
    except InvalidRequestError:
        same = False
    if not same:
        raise ConflictError(
            f"the update starts from {update.base_model_uri!r}, the round from {round_.base.uri}", code="stale_base"
        )


def check_extent(round_: Round, body: bytes) -> None:
    """Raises ``InvalidRequestError`` with code ``shape_mismatch`` when ``body`` cannot hold a model of the round's shapes:
    as objects it could take far more memory than as text.
    """
    values = sum(sum(accumulate(shape, mul, initial=1)) for shape in round_.base_shapes.values())
    if len(body) > LARGE + MOST_OF_NUMBER * values:
        raise _too_large(round_, f"{len(body)} bytes")
    if (found := values_in(body)) > large_update.MAX_METRICS_BYTES + values:
        raise _too_large(round_, f"{found} values")


def _too_large(round_: Round, what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"update: {what} are more than a model like {round_.base.uri} can have", code="shape_mismatch"
    )


def receive(round_: Round, update: Update, body: bytes, now: float) -> ReceivedUpdate:
    """The ``update`` that was read from ``body``, in its canonical form; raises ``InvalidRequestError`` when it does not
    have the shape of the base.
    """
    if len(body) > LARGE:
        check_extent(round_, body)
        update = parse(body, Update)
    model = models.parse(update.update, "update")
    problem = models.difference(models.shapes(model), round_.base_shapes)
    if problem:
        raise InvalidRequestError(f"update: {problem}", code="shape_mismatch")
    body = models.encode(model)
    return ReceivedUpdate(
        proplet_id=update.proplet_id,
        key=UpdateKey(sha256_digest(body), update.num_samples),
        metrics=json.dumps(update.metrics),
        received_at=now,
        body=body,
    )
