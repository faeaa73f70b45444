"""May this update count? Checks of one update against its round, in the order in which a sender should learn of them."""

from __future__ import annotations

import json

from coordinator import models
from coordinator.records import Participants, ReceivedUpdate, Round, UpdateKey
from coordinator.tokens import Tokens
from swashplate.blobs import sha256_digest
from swashplate.errors import ConflictError, ForbiddenError, InvalidRequestError
from swashplate.messages import Update
from swashplate.model_ref import ModelRef


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
            hint="the header X-Attempt-Token must carry the token that came with the task's start",
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


def receive(round_: Round, update: Update, now: float) -> ReceivedUpdate:
    """The update in its canonical form; raises ``InvalidRequestError`` when it does not have the shape of the base."""
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
