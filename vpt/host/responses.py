"""What the host answers: replies that can be kept on disk, and refusals."""

from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it goes over the wire: the HTTP status and a JSON body."""

    status: int
    body: bytes


class Refusal(Exception):  # noqa: N818 (an answer, not an error)
    """The host does not do this; `status` is the HTTP status, `code` is for programs."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """Take the sentence for a person as `message`."""
        super().__init__(message)
        self.status = status
        self.code = code

    def reply(self) -> Reply:
        """The same, as an answer."""
        return Reply(self.status, orjson.dumps({"error": str(self), "code": self.code}))


def refused(status: int, code: str, message: str) -> Reply:
    """Answer that something is not done."""
    return Refusal(status, code, message).reply()
