"""Runs a container from Python and prints its exit code: run.py LIBRARY DIRECTORY ID BUNDLE

LIBRARY is libcontainer.so, DIRECTORY where the state of containers is kept, BUNDLE has config.json and a root file system.
"""

import ctypes
import sys


def main(library, directory, container, bundle):
    lib = ctypes.CDLL(library)
    lib.libcontainer_error.restype = ctypes.c_char_p
    containers = ctypes.c_void_p()
    code = ctypes.c_int()
    name, forever, the_first = container.encode(), -1, 0

    def call(function, *arguments):
        if function(*arguments) != 0:
            raise RuntimeError(lib.libcontainer_error().decode())

    call(lib.libcontainer_open, directory.encode(), ctypes.byref(containers))
    try:
        call(lib.libcontainer_create, containers, name, bundle.encode(), None)
        try:
            call(lib.libcontainer_start, containers, name)
            call(lib.libcontainer_wait, containers, name, the_first, forever, ctypes.byref(code))
        finally:
            call(lib.libcontainer_delete, containers, name, 1)
    finally:
        lib.libcontainer_close(containers)
    print(f"{container} ended with {code.value}")


if __name__ == "__main__":
    main(*sys.argv[1:])
