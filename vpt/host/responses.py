"""The responses of the host, which can be stored in the journal, and refusals."""

from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class JsonResponse:
    """A response as it is sent: the HTTP status and the JSON body."""

    status: int
    body: bytes


class Refusal(Exception):  # noqa: N818 (a response, not an error)
    """The host does not execute a request; `status` is the HTTP status, `code` is for programs."""

    def __init__(self, status: int, code: str, message: str, output: str | None = None) -> None:
        """Store the status, the error code, `message` for people, and what was printed so far."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.output = output

    def response(self) -> JsonResponse:
        """Return the refusal as a response."""
        output = {} if self.output is None else {"output": self.output}
        body = {"error": str(self), "code": self.code, **output}
        return JsonResponse(self.status, orjson.dumps(body))


def refusal_response(
    status: int, code: str, message: str, output: str | None = None
) -> JsonResponse:
    """Return the response for a refusal without raising it."""
    return Refusal(status, code, message, output).response()
