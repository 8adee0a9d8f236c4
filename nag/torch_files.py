"""Files of torch.save: how they begin, and what reading a damaged one raises."""

from __future__ import annotations

import struct

ZIP, PICKLE = b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9"  # how files of torch.save begin, new and old

# what torch.load was seen to raise on files that were cut or had a byte changed
DAMAGED = (RuntimeError, EOFError, OSError, struct.error, LookupError, ValueError, TypeError, AssertionError)


def is_pickle(start: bytes) -> bool:
    """Whether a file that begins so was written by torch.save."""
    return start.startswith((ZIP, PICKLE))
