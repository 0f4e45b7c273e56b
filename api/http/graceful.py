"""What uvicorn makes of a client's connection: `uvicorn --http api.http.graceful:Patient`."""

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PATIENCE_SECONDS: Final = 0.5


class Patient(HttpToolsProtocol):
    """A connection without a request is not cut when the server is told to stop, for one may be on its way: it is
    answered, and told that it was the last one. uvicorn's own cuts it, and the client sees a reset.
    """

    _leaving = False

    def shutdown(self) -> None:
        """Called once by the server, which then waits until every connection is closed."""
        self._leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(PATIENCE_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False
