"""Large results on their way to the manager's HTTP, which is asked until it has them; then the result itself is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlencode

from proplet.work.journal import Journal, PendingUpload
from proplet.work.outbox import Outbox
from proplet.work.outcome import Failure
from proplet.work.outgoing import Outgoing, Ref, result_message, result_of
from proplet.work.result_files import ResultFiles
from swashplate import logging
from swashplate.client import HttpClient, UnreachableError, error_of
from swashplate.errors import SwashplateError, UnavailableError
from swashplate.messages import TOKEN_HEADER
from swashplate.service import Tasks

log = logging.get("outbox")

AGAIN_S, AGAIN_MOST_S = 0.2, 5.0
AWAY_S = 15.0
"""A manager that has answered on the bus for so long, and never at its URL, will not."""
CONNECT_S, READ_S = 5, 60
"""The whole may take its time: the lease of the attempt bounds it."""
NO_URL = "set MANAGER_ADVERTISED_URL at the manager, or MANAGER_URL at the proplet, to what reaches the manager's HTTP"


class Uploads:
    """``manager_url`` is asked at every try: the manager may announce another one meanwhile."""

    def __init__(
        self,
        journal: Journal,
        outbox: Outbox,
        proplet_id: str,
        http: HttpClient,
        files: ResultFiles,
        manager_url: Callable[[], str | None],
    ) -> None:
        self._journal = journal
        self._outbox = outbox
        self._proplet_id = proplet_id
        self._http = http
        self._files = files
        self._manager_url = manager_url
        self._uploading: dict[Ref, tuple[PendingUpload, asyncio.Task[None]]] = {}
        self._background = Tasks(log)

    async def open(self) -> None:
        """Take up what an earlier life left."""
        pending = await self._journal.uploads()
        self._files.keep_only(upload.ref for upload in pending)
        for upload in pending:
            self._upload(upload)

    async def close(self) -> None:
        await self._background.close()

    def refs(self) -> list[Ref]:
        """The attempts and invocations whose result the manager does not have yet."""
        return list(self._uploading)

    async def calls_told(self, deployment: Ref) -> None:
        """Return when the results of its invocations that are on their way now have been told."""
        of_it = [work for ref, (_, work) in self._uploading.items() if ref.invocation and ref.deployment == deployment]
        if of_it:
            await asyncio.wait(of_it)

    async def bring(self, upload: PendingUpload) -> None:
        """Keep it, then bring it to the manager and report how that ended; does not wait for it."""
        await self._outbox.keep_upload(upload)
        self._upload(upload)

    def give_up(self, ref: Ref, reason: Failure) -> bool:
        """Report ``reason`` instead; False when there is nothing to give up, or the manager has it."""
        found = self._uploading.get(ref)
        if found is None:
            return False
        upload, work = found
        work.cancel()
        self._done(upload)
        self._background.start(
            self._outbox.finish(result_message(ref, self._proplet_id, reason)), f"give up {ref.task_id}"
        )
        return True

    def _upload(self, upload: PendingUpload) -> None:
        work = self._background.start(self._until_taken(upload), f"upload {upload.ref.task_id}")
        self._uploading[upload.ref] = upload, work

    async def _until_taken(self, upload: PendingUpload) -> None:
        message = await self._brought(upload)
        del self._uploading[upload.ref]  # from here on it cannot be given up
        await self._outbox.finish(message)
        self._done(upload)

    def _done(self, upload: PendingUpload) -> None:
        self._uploading.pop(upload.ref, None)
        self._files.remove(upload.ref)

    async def _brought(self, upload: PendingUpload) -> Outgoing:
        """The result that is true after the manager's answer."""
        now, delay = asyncio.get_running_loop().time, AGAIN_S
        failing_since, heard_at = None, None
        while True:
            began = now()
            try:
                await self._put(upload)
            except UnavailableError as error:
                failing_since = failing_since or began
                if heard_at is None and self._outbox.heard_at > failing_since:
                    heard_at = self._outbox.heard_at
                if heard_at is not None and began > heard_at + AWAY_S:
                    return self._failed(upload, f"{error.sentence}; {NO_URL}", "result_too_large")
                log.warning("result not uploaded, trying again", task_id=upload.ref.task_id, error=error.sentence)
                self._outbox.say_accepted(upload.ref.deployment)  # its acknowledgement shows that the manager lives
            except SwashplateError as error:
                reason = f"{error.sentence} ({error.hint})" if error.hint else error.sentence
                return self._failed(upload, reason, error.code, retryable=error.retryable)
            else:
                return result_of(upload.ref, upload.success)
            await asyncio.sleep(delay)
            delay = min(delay * 2, AGAIN_MOST_S)

    def _failed(self, upload: PendingUpload, reason: str, code: str, *, retryable: bool = False) -> Outgoing:
        log.error("result not uploaded", task_id=upload.ref.task_id, error=reason)
        failure = Failure(f"the result is too large for a message, and its upload failed: {reason}", code, retryable)
        return result_message(upload.ref, self._proplet_id, failure)

    async def _put(self, upload: PendingUpload) -> None:
        """Raises what the manager's refusal means, and ``UnavailableError`` when it does not answer."""
        import aiohttp  # noqa: PLC0415  # see HttpClient

        base, ref = self._manager_url(), upload.ref
        if base is None:
            raise UnavailableError("no manager has announced itself")
        if not base:
            raise SwashplateError(f"no URL of the manager is known; {NO_URL}", code="result_too_large")
        whose = {"task_id": ref.task_id, "attempt": ref.attempt, "proplet_id": self._proplet_id}
        query = urlencode(whose | ({"invocation_id": ref.invocation} if ref.invocation else {}))
        url = f"{base}/blobs/{upload.digest}"
        headers = {TOKEN_HEADER: upload.token, "Content-Type": "application/json"}
        try:
            with self._files.path(ref, upload.digest).open("rb") as content:
                timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=READ_S)
                request = self._http.open(
                    "PUT", f"{url}?{query}", data=content, headers=headers, timeout=timeout, allow_redirects=False
                )
                async with request as response:
                    if response.status >= 300:
                        raise error_of(response.status, (await response.read()).decode(errors="replace"), url)
        except FileNotFoundError as error:
            raise SwashplateError("the file of the result is gone", code="result_lost", retryable=True) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(f"PUT {url} failed: {reason}", sent=True) from error
