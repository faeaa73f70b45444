"""How a zygote begins: should it be unable to, for want of the runtime or of what that needs, the agent is told why."""

from __future__ import annotations

import json
import socket
import sys


def main() -> None:
    try:
        from proplet.sandbox import zygote  # noqa: PLC0415  # this is what may fail

        zygote.main()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is why no guest can run
        try:
            with socket.socket(fileno=int(sys.argv[1])) as agent:
                agent.send(json.dumps({"broken": f"{type(error).__name__}: {error}"[:1000]}).encode())
        except OSError:  # it had begun: this is a fault of ours
            raise error from None
        sys.exit(1)
