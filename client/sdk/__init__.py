"""The Python client: `Client`, `AsyncClient`, and the errors that both raise."""

from client.sdk.asynchronous import AsyncClient, AsyncJob
from client.sdk.operations import Broken, Refused, ServiceError, Unreachable
from client.sdk.sync import Client, LiveJob

__all__ = ["AsyncClient", "AsyncJob", "Broken", "Client", "LiveJob", "Refused", "ServiceError", "Unreachable"]
