"""An HTTP protocol of uvicorn with graceful shutdown: `uvicorn --http api.http.graceful:GracefulHttpProtocol`."""

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

IDLE_GRACE_SECONDS: Final = 0.5


class GracefulHttpProtocol(HttpToolsProtocol):
    """On shutdown keeps idle connections open for a moment: a request that is already on its way is answered, with
    `Connection: close`. uvicorn's own protocol closes them at once, and the client sees a connection reset.
    """

    _shutting_down = False

    def shutdown(self) -> None:
        """Called once by the server, which then waits until every connection is closed."""
        self._shutting_down = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(IDLE_GRACE_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._shutting_down and self.cycle is not None:
            self.cycle.keep_alive = False
