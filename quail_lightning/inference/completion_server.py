"""The HTTP side of a server with the OpenAI-compatible API: for each request a JSON object or a clear error."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from quail_lightning.errors import InputError, RunError
from quail_lightning.run.masking import masked

KEY = "VLLM_API_KEY"
"""Environment variable with the server's key. ``OPENAI_API_KEY`` is another service's, and is not sent here."""

PATIENCE = 600.0  # seconds without an answer; a request may wait for its turn at the server
LARGEST = 64 * 2**20  # bytes of an answer; one completion is some kilobytes
SHOWN = 300  # characters of a server's own message


class ServerError(RunError):
    """The server gave no usable answer."""


class Unreachable(ServerError):
    """Nothing listens there."""


@dataclass(frozen=True)
class CompletionServer:
    """A server at one address. No proxy is asked and no redirect followed: prompts and key go there or nowhere.

    Attributes:
        url: ``http://localhost:8000``.
        key: sent as a bearer token; None sends none.
        patience: seconds until an answer must be there.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    patience: float = PATIENCE

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path, such as ``/v1/models``.

        Raises:
            Unreachable: nothing listens there.
            ServerError: see ``post``.
        """
        return self._object("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that answers a JSON object.

        Raises:
            Unreachable: nothing listens there.
            ServerError: no answer in time, a status that is not 200, or an answer that is no JSON object.
        """
        return self._object("POST", path, json.dumps(body).encode())

    def _object(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        status, answer = self._ask(method, path, body)
        if status != http.client.OK:
            raise ServerError(
                f"the server at {self.url} answered {path} with {status} {http.client.responses.get(status, '')}"
                f": {_told(answer)}",
                remedy=f"Set the environment variable {KEY} to the server's key" if status in (401, 403) else None,
            )
        try:
            found = json.loads(answer)
        except ValueError:
            raise ServerError(f"the server at {self.url} answered {path} with no JSON: {_told(answer)}") from None
        if not isinstance(found, dict):
            raise ServerError(f"the server at {self.url} answered {path} with no JSON object: {_told(answer)}")
        return found

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        to = urlsplit(self.url)
        connection = http.client.HTTPConnection(to.hostname or "", to.port, timeout=self.patience)
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(LARGEST)
        except TimeoutError:
            raise ServerError(
                f"the server at {self.url} has not answered {path} for {self.patience:g} s"
            ) from None
        except ConnectionRefusedError:
            raise Unreachable(f"no server listens at {self.url}") from None
        except (OSError, http.client.HTTPException) as error:
            said = f"{type(error).__name__}: {error}"
            raise Unreachable(f"the server at {self.url} broke off or cannot be reached ({said})") from None
        finally:
            connection.close()


def named_server(url: str) -> CompletionServer:
    """The server that an option names; its key is in the environment.

    Raises:
        InputError: no address of an HTTP server on this machine, or one with more in it.
    """
    try:
        parts = urlsplit(url)
        more = (parts.username, parts.password, parts.path.removesuffix("/").removesuffix("/v1"), parts.query)
        is_plain = parts.scheme == "http" and parts.port != 0 and not any(more) and not parts.fragment
    except ValueError:
        is_plain = False
    if not is_plain or not parts.hostname:
        raise InputError(
            "vllm.url is no plain address of a server",
            given=masked(url),
            allowed="http://localhost:PORT",
            remedy=f"A key is given by the environment variable {KEY}",
        )
    if not _is_here(parts.hostname):
        raise InputError(
            "vllm.url names another machine, and the prompts hold private text",
            given=masked(url),
            allowed="http://localhost:PORT",
            remedy="Bring the port here: ssh -L 8000:localhost:8000 HOST",
        )
    return CompletionServer(f"http://{parts.netloc}", os.environ.get(KEY) or None)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name; another one than this may lead anywhere
        return host == "localhost"


def _told(answer: bytes) -> str:
    """A server's own message, in short."""
    text = " ".join(answer.decode("utf-8", "replace").split())
    try:
        found = json.loads(answer)
        text = str(found["error"]["message"] if isinstance(found.get("error"), dict) else found["message"])
    except (ValueError, KeyError, AttributeError):
        pass
    return str(masked(text[:SHOWN])) or "(nothing)"
