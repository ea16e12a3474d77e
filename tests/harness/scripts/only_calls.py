"""Run a command that has only these system calls; others fail with EPERM, as under systemd's SystemCallFilter.

python only_calls.py read,write,… COMMAND …
"""

import ctypes
import ctypes.util
import errno
import os
import sys

_ALLOW = 0x7FFF0000
_FAIL = 0x00050000 | errno.EPERM

library = ctypes.CDLL(ctypes.util.find_library("seccomp") or "libseccomp.so.2")
library.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(library.seccomp_init(_FAIL))
for name in sys.argv[1].split(","):
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:  # negative: there is none on this machine
        assert library.seccomp_rule_add(context, _ALLOW, number, 0) == 0, name
assert library.seccomp_load(context) == 0
os.execv(sys.argv[2], sys.argv[2:])
