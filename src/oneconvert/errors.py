"""The one family of errors: the text of each is the sentence that the user reads.

Every message is one plain line. It names the image or the setting, says what is wrong and, where there is one, the
way out. No message holds a password, a key or the query string of a URL.
"""

from __future__ import annotations


class OneconvertError(Exception):
    """Anything that ends an action with a sentence for the user."""

    @property
    def sentence(self) -> str:
        """The message on one line: oned reads line by line, so line breaks and control characters are blanks."""
        return " ".join("".join(c if c.isprintable() else " " for c in str(self)).split())


class MessageError(OneconvertError):
    """The document that oned sent cannot be used."""


class SettingsError(OneconvertError):
    """oneconvert.conf, or an attribute of the datastore, holds a value that cannot be used."""


class OptionError(OneconvertError):
    """An option of the command line is missing, or names something that is not there or cannot be used."""


class NotAllowedError(OneconvertError):
    """The administrator's rules forbid this source."""


class TransferError(OneconvertError):
    """The image did not arrive, or not whole, or not as its checksum says."""


class NotConnectedError(TransferError):
    """There was no connection to the server; another try may have one."""


class HttpStatusError(TransferError):
    """The server answered, with ``status`` instead of the image."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class SourceChangedError(TransferError):
    """The file was changed at its source while it was fetched."""


class ImageRefusedError(OneconvertError):
    """The image is damaged, hostile or of a kind that cannot be imported."""


class NotAnImageError(ImageRefusedError):
    """The file is certainly none of a disk: a text, a page, an archive, next to nothing."""


class CommandError(OneconvertError):
    """A program that does part of the work failed."""


class HandOverError(OneconvertError):
    """The native datastore driver did not take the finished image."""


class VCenterError(OneconvertError):
    """A vCenter cannot be reached, or did not do what was asked.

    ``fault`` is the vSphere API's name of what went wrong (FileNotFound, NoDiskSpace, NotAuthenticated), empty where
    the trouble is of another kind.
    """

    def __init__(self, sentence: str, fault: str = "") -> None:
        super().__init__(sentence)
        self.fault = fault


class OnedError(OneconvertError):
    """oned's API did not answer, or refused."""


class InterruptedBySignalError(BaseException):
    """A signal asked the action to stop.

    Not an OneconvertError, nor any Exception: a library that catches those would swallow it. ``signum`` is the number
    of the signal; the exit status is 128 plus that number, as a shell reports it.
    """

    def __init__(self, signum: int, name: str) -> None:
        super().__init__(f"interrupted by {name}; nothing was stored")
        self.signum = signum
