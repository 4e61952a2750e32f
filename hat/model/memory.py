"""Keep the allocator from returning large buffers to the system after every step."""

import ctypes
import os
import sys

_ENOUGH_BYTES = 12 << 30
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_pages() -> None:
    """Let glibc reuse freed buffers of any size: mapping and clearing fresh pages costs 10-20% of a CPU step.

    Memory once used stays with the process until it ends (a few GiB while training), so small boards are
    left as they are. No effect on other C libraries.
    """
    if sys.platform != "linux" or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < _ENOUGH_BYTES:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_TOP_PAD, 64 << 20)
