"""What the coordinator shows of a round."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from coordinator.messages import NextRound, ParticipantView, RoundSummary, RoundView
from coordinator.records import Participant, Participants, Round, UpdateKey, UpdateKeys
from coordinator.states import ParticipantState, RoundState
from swashplate.messages import ExperimentAnswer, Launched, RoundStatus, Skipped


def experiment_answer(round_: Round, participants: Participants) -> ExperimentAnswer:
    """What the request for a round is told: ``configured`` unless the round is already lost."""

    def such(state: ParticipantState) -> list[Skipped]:
        found = (p for p in participants.values() if p.state is state)
        return [Skipped(proplet_id=p.proplet_id, reason=p.error, code=p.code) for p in found]

    lost = round_.over and round_.state is not RoundState.COMPLETED
    return ExperimentAnswer(
        experiment_id=round_.config.experiment_id,
        round_id=round_.id,
        status=round_.state.value if lost else "configured",
        model_version=round_.base.version,
        launched=[Launched(proplet_id=p.proplet_id, task_id=p.task_id) for p in participants.values() if p.task_id],
        skipped=such(ParticipantState.SKIPPED),
        pending=such(ParticipantState.PENDING),
    )


def status(round_: Round, num_updates: int) -> RoundStatus:
    return RoundStatus(**_status(round_, num_updates))


def summary(round_: Round, num_updates: int, *, now: float) -> RoundSummary:
    return RoundSummary(**_summary(round_, num_updates, now))


def view(
    round_: Round,
    participants: Participants,
    keys: UpdateKeys,
    metrics: Mapping[str, dict[str, Any]],
    *,
    now: float,
) -> RoundView:
    return RoundView(
        **_summary(round_, len(keys), now),
        timeout_s=round_.config.timeout_s,
        task_wasm_image=round_.config.task_wasm_image,
        hyperparams=round_.config.hyperparams,
        base_digest=round_.base_digest,
        model_digest=round_.model_digest or None,
        participants=[
            _participant(p, keys.get(p.proplet_id), metrics.get(p.proplet_id)) for p in participants.values()
        ],
    )


def next_round(last: Round | None) -> NextRound:
    if last is None or last.model is None:
        return NextRound(next_round_available=False, message="no round has completed yet")
    return NextRound(
        next_round_available=True,
        last_completed_round=last.id,
        new_model_version=last.model.version,
        model_uri=last.model.uri,
        status="ready",
    )


def _status(round_: Round, num_updates: int) -> dict[str, Any]:
    return {
        "round_id": round_.id,
        "completed": round_.state is RoundState.COMPLETED,
        "num_updates": num_updates,
        "k_of_n": round_.k_of_n,
        "status": round_.state.value,
        "model_version": round_.model_version,
        "model_uri": round_.model.uri if round_.model else None,
        "code": round_.code or None,
        "error": round_.error or None,
    }


def _summary(round_: Round, num_updates: int, now: float) -> dict[str, Any]:
    return {
        **_status(round_, num_updates),
        "experiment_id": round_.config.experiment_id,
        "model_ref": round_.base.uri,
        "created_at": _time(round_.created_at),
        "deadline": _time(round_.deadline),
        "aggregating_at": _time(round_.aggregating_at),
        "finished_at": _time(round_.finished_at),
        "seconds": round((round_.finished_at or now) - round_.created_at, 6),
    }


def _participant(p: Participant, key: UpdateKey | None, metrics: dict[str, Any] | None) -> ParticipantView:
    return ParticipantView(
        proplet_id=p.proplet_id,
        state=p.state.value,
        task_id=p.task_id or None,
        code=p.code or None,
        error=p.error or None,
        num_samples=key.num_samples if key else None,
        metrics=metrics,
        launched_at=_time(p.launched_at),
        ended_at=_time(p.ended_at),
    )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
