"""The part of ctypes that the wrappers here need, from the C module below it.

``import ctypes`` takes 2 ms, a third of a bare interpreter's start: it builds types and calls that nobody here uses.
``_ctypes`` is built into the interpreter.  It is private to Python, so where a later one has changed it, the package
itself is used.  Names and meanings are those of ctypes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        CDLL,
        Array,
        PyDLL,
        Structure,
        addressof,
        byref,
        c_char,
        c_char_p,
        c_int,
        c_long,
        c_size_t,
        c_uint,
        c_uint32,
        c_uint64,
        c_ulong,
        create_string_buffer,
        get_errno,
        sizeof,
    )
else:
    try:
        from _ctypes import (
            FUNCFLAG_CDECL,
            FUNCFLAG_PYTHONAPI,
            FUNCFLAG_USE_ERRNO,
            Array,
            CFuncPtr,
            Structure,
            addressof,
            byref,
            dlopen,
            get_errno,
            sizeof,
        )
        from _ctypes import _SimpleCData as Simple

        class c_char(Simple):
            _type_ = "c"

        class c_char_p(Simple):
            _type_ = "z"

        class c_int(Simple):
            _type_ = "i"

        class c_uint(Simple):
            _type_ = "I"

        class c_long(Simple):
            _type_ = "l"

        class c_ulong(Simple):
            _type_ = "L"

        c_size_t = c_uint64 = c_ulong  # of Linux on 64-bit machines, as ctypes finds out
        c_uint32 = c_uint

        class CDLL:
            """The functions of the library *name* (None: of this process), each an attribute."""

            _flags = FUNCFLAG_CDECL

            def __init__(self, name, use_errno=False):
                flags = self._flags | (FUNCFLAG_USE_ERRNO if use_errno else 0)

                class Function(CFuncPtr):
                    _flags_ = flags
                    _restype_ = c_int

                self._function = Function
                self._name = name
                self._handle = dlopen(name, 0)

            def __getattr__(self, name):
                if name.startswith("__"):
                    raise AttributeError(name)
                function = self._function((name, self))
                setattr(self, name, function)
                return function

        class PyDLL(CDLL):
            _flags = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI

        def create_string_buffer(init, size=None):
            if isinstance(init, int):
                return (c_char * init)()
            buffer = (c_char * (len(init) + 1 if size is None else size))()
            buffer.value = init
            return buffer

        if sizeof(c_ulong) != 8 or sizeof(c_uint) != 4:
            raise ImportError("not a 64-bit Linux")
    except (ImportError, AttributeError, TypeError):
        from ctypes import (
            CDLL,
            Array,
            PyDLL,
            Structure,
            addressof,
            byref,
            c_char,
            c_char_p,
            c_int,
            c_long,
            c_size_t,
            c_uint,
            c_uint32,
            c_uint64,
            c_ulong,
            create_string_buffer,
            get_errno,
            sizeof,
        )

__all__ = [
    "CDLL",
    "Array",
    "PyDLL",
    "Structure",
    "addressof",
    "byref",
    "c_char",
    "c_char_p",
    "c_int",
    "c_long",
    "c_size_t",
    "c_uint",
    "c_uint32",
    "c_uint64",
    "c_ulong",
    "create_string_buffer",
    "get_errno",
    "sizeof",
]
